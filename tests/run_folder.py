"""What runs leave in their folders, for the tests that look there."""

import json
import pathlib
from typing import Any


def read(folder: pathlib.Path, name: str = 'report.json') -> Any:
  """Value of a JSON file."""
  return json.loads((folder / name).read_text())


def metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Records of the epochs."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Records that two runs can have in common."""
  return [
    {k: v for k, v in r.items() if not k.endswith('_seconds')} for r in records
  ]


def contents(folder: pathlib.Path) -> dict[pathlib.Path, tuple[int, bytes]]:
  """Path to (time of change, bytes), of every file."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def plain(value: Any) -> Any:
  """As a value reads back: tuples become lists."""
  return json.loads(json.dumps(value))


def made_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """What lies in a folder of the cache, but for the locks, which stay."""
  return [p for p in sorted(folder.iterdir()) if p.suffix != '.lock']
