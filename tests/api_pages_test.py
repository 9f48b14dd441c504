"""docs/api.py: the reference of all modules."""

import pathlib
import subprocess
import sys
import types

import pytest

import lorap_jax

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_every_module_and_every_name_of_the_face_has_its_place(tmp_path):
  pytest.importorskip('pdoc', reason="pip install '.[api]'")
  subprocess.run(
    [sys.executable, '-W', 'error', '-m', 'docs.api', str(tmp_path)],
    cwd=ROOT,
    check=True,
  )
  package = ROOT / 'lorap_jax'
  for path in package.rglob('*.py'):
    name = path.relative_to(package).with_suffix('')
    if not any(part.startswith('_') for part in name.parts):
      assert (tmp_path / 'lorap_jax' / name).with_suffix('.html').is_file()
  face = (tmp_path / 'lorap_jax.html').read_text()
  for name in lorap_jax.__all__:
    if not isinstance(getattr(lorap_jax, name), types.ModuleType | str):
      assert f'id="{name}"' in face, name
