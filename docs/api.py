"""`python -m docs.api FOLDER` writes the reference of all modules as HTML.

It is made from the docstrings by pdoc: `pip install '.[api]'`.
"""

import pathlib
import pkgutil
import sys
import warnings

import lorap_jax


def modules() -> list[str]:
  """Names of all public modules, the package first."""
  found = pkgutil.walk_packages(lorap_jax.__path__, 'lorap_jax.')
  names = [module.name for module in found if '._' not in module.name]
  return ['lorap_jax', *(n for n in names if not n.endswith('__main__'))]


def main(folder: str) -> None:
  """Writes `index.html` and a page for each module."""
  import pdoc
  from pdoc import render

  for name in lorap_jax.__all__:  # They are imported when they are used.
    setattr(lorap_jax, name, getattr(lorap_jax, name))
  render.configure(docformat='google', search=False)
  # A package leads pdoc to those of its modules that are in its `__all__`.
  warnings.filterwarnings('ignore', 'The module specification')
  # Of __init__ methods that dataclasses write.
  warnings.filterwarnings('ignore', 'Error parsing type annotation')
  pdoc.pdoc(*modules(), output_directory=pathlib.Path(folder))


if __name__ == '__main__':
  main(*sys.argv[1:])
