"""Checkpoints. The only module that knows Orbax."""

import hashlib
import pathlib
import shutil
from collections.abc import Collection
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from lorap_jax._typing import PyTree
from lorap_jax.data.files import store
from lorap_jax.runs import apart, processes

KINDS = ('latest', 'best')
_DIGEST = 'sha256'
_KEPT = 2  # Of each kind: one is whole while its successor is written.


class CheckpointError(ValueError):
  """A checkpoint that cannot be read."""


class DamagedError(CheckpointError):
  """A checkpoint that is missing or not what was saved."""


class Checkpoints:
  """The newest and the best states of a run, in `latest` and `best`.

  A checkpoint is written beside its place, and moved there when it is whole. It
  carries a digest of what it holds. Nothing is removed but by `prune`, which
  keeps the newest two of each kind, and by `drop_after`. Of several processes
  process 0 alone has the folder; all call alike, and get what it reads.

  Attributes:
    directory: parent of both.
  """

  def __init__(self, directory: pathlib.Path):
    self.directory = directory.absolute()

  def steps(self, kind: str) -> list[int]:
    """Numbers of the checkpoints in `kind`, in order."""
    return processes.on_main(self._steps, kind)

  def _steps(self, kind: str) -> list[int]:
    folder = self.directory / kind
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())

  def step(self, kind: str) -> int | None:
    """Number of the newest checkpoint in `kind`, None if there is none."""
    steps = self.steps(kind)
    return steps[-1] if steps else None

  def save(
    self, kind: str, step: int, state: PyTree, progress: dict[str, Any]
  ) -> None:
    """Writes a checkpoint; returns when it is complete.

    One that is there is left as it is: a step has one state.

    Args:
      kind: `latest` or `best`.
      step: its number, the optimizer steps taken.
      state: tree of arrays.
      progress: JSON-able position and history of the run.
    """
    processes.on_main(self._save, kind, step, state, progress)

  def _save(
    self, kind: str, step: int, state: PyTree, progress: dict[str, Any]
  ) -> None:
    path = self.directory / kind / str(step)
    if path.exists():
      return
    self._sweep(kind)
    part = path.with_name(f'{step}.part')
    apart.call(_write, part, state, progress)
    (part / _DIGEST).write_text(_digest(part))
    part.rename(path)

  def _sweep(self, kind: str) -> None:
    """Removes what a killed process left half-written or half-removed."""
    folder = self.directory / kind
    for path in folder.iterdir() if folder.is_dir() else ():
      if path.is_dir() and not path.name.isdecimal():
        shutil.rmtree(path)

  def prune(self) -> None:
    """Removes all but the newest two of each kind.

    To be called when `latest` is complete, so that there is a `best` for each
    `latest`.
    """
    processes.on_main(self._prune)

  def _prune(self) -> None:
    for kind in KINDS:
      for step in self.steps(kind)[:-_KEPT]:
        self._remove(kind, step)

  def drop_after(self, step: int) -> None:
    """Removes the checkpoints beyond a step from which a run goes on."""
    processes.on_main(self._drop_after, step)

  def _drop_after(self, step: int) -> None:
    for kind in KINDS:
      for later in self.steps(kind):
        if later > step:
          self._remove(kind, later)
      self._sweep(kind)

  def _remove(self, kind: str, step: int) -> None:
    path = self.directory / kind / str(step)
    # At once: half of a checkpoint must not pass for one.
    shutil.rmtree(path.rename(path.with_name(f'{step}.removed')))

  def load(
    self, kind: str, like: PyTree, *, step: int | None = None
  ) -> tuple[PyTree, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      kind: `latest` or `best`; the other is read if it has the step and this
        one has not, or is damaged.
      like: a state of the same structure, or its `jax.eval_shape`; what is on
        several devices is put there.
      step: number of the checkpoint; None for the newest of the kind.

    Returns:
      The state and the progress saved with it.

    Raises:
      CheckpointError: of another structure.
      DamagedError: none there, or damaged.
    """
    path, saved, progress = self._read(kind, step)
    _check(path, saved, like)
    found = _leaves(saved)
    fitted = jax.tree_util.tree_map_with_path(
      lambda place, leaf: _on_devices_of(leaf, found[_name(place)]), like
    )
    return fitted, progress

  def load_entries(self, kind: str, like: dict[str, PyTree]) -> dict[str, Any]:
    """Reads some entries of a state, and no other arrays.

    Args:
      kind: `latest` or `best`.
      like: entries of the same structure, or their `jax.eval_shape`.

    Returns:
      The entries as nested dicts of arrays.

    Raises:
      CheckpointError: entries of another structure.
      DamagedError: none there, or damaged.
    """
    path, saved, _ = self._read(kind, None, tuple(like))
    found = {name: saved.get(name) or {} for name in like}
    _check(path, found, like)
    return found

  def load_arrays(
    self, kind: str, entries: Collection[str] | None = None
  ) -> dict[str, Any]:
    """Reads a checkpoint of whatever structure.

    Args:
      kind: `latest` or `best`.
      entries: names of those to read, where they are there; None for all.

    Returns:
      The entries as nested dicts of arrays.

    Raises:
      DamagedError: none there, or damaged.
    """
    return self._read(kind, None, entries)[1]

  def _read(
    self, kind: str, step: int | None, entries: Collection[str] | None = None
  ) -> tuple[pathlib.Path, dict[str, Any], dict[str, Any]]:
    """Path, arrays and progress of a step, of whichever kind has it whole."""
    path, saved, progress = processes.on_main(
      self._whole, kind, step, entries, errors=(DamagedError,)
    )
    return pathlib.Path(path), saved, progress

  def _whole(
    self, kind: str, step: int | None, entries: Collection[str] | None
  ) -> tuple[str, dict[str, Any], dict[str, Any]]:
    step = self.step(kind) if step is None else step
    if step is None:
      raise DamagedError(f'no {kind} checkpoint in {self.directory / kind}')
    kinds = sorted(KINDS, key=lambda other: other != kind)
    paths = [self.directory / k / str(step) for k in kinds]
    reasons = []
    for path in paths:
      if not path.exists():
        continue
      try:
        return str(path), *apart.call(_read, path, entries)
      except DamagedError as error:
        reasons.append(str(error))
    missing = f'no checkpoint {step} in {self.directory / kind}'
    raise DamagedError('; '.join(reasons) or missing)


def _on_devices_of(like: Any, leaf: Any) -> Any:
  """A leaf where another one lies, if that is on several devices."""
  sharding = getattr(like, 'sharding', None)
  if sharding is None or len(sharding.device_set) == 1:
    return leaf
  return processes.replicated(leaf, sharding)


def _write(path: pathlib.Path, state: PyTree, progress: dict[str, Any]) -> None:
  ocp.save(str(path), state, custom_metadata=progress)


def _read(
  path: pathlib.Path, entries: Collection[str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Arrays and progress of a checkpoint that is as it was saved."""
  try:
    # Before anything is read: Orbax leaves reads open when one fails. An older
    # version kept no digest.
    if (path / _DIGEST).exists() and (
      (path / _DIGEST).read_text() != _digest(path)
    ):
      raise ValueError('its files are not those that were saved')
    metadata = ocp.metadata(str(path))
    progress = cast(Any, metadata.custom_metadata)
    if not isinstance(progress, dict):
      raise ValueError('it has no record of the run')
    # Without shapes, arrays would go to the device they were saved from.
    skip = lambda _: ocp.PLACEHOLDER
    like = {
      name: jax.tree.map(
        ocp_abstract if entries is None or name in entries else skip, part
      )
      for name, part in cast(dict[str, Any], metadata.metadata).items()
    }
    saved = cast(dict[str, Any], ocp.load(str(path), cast(Any, like)))
    if entries is not None:
      saved = {name: saved[name] for name in entries if name in saved}
  except Exception as error:  # Damage shows in a dozen types of exception.
    reason = str(error.__cause__ or error).strip() or type(error).__name__
    raise DamagedError(
      f'checkpoint {path.name} in {path.parent} is damaged: '
      f'{reason.splitlines()[0]}'
    ) from error
  return saved, progress


def _check(path: pathlib.Path, saved: PyTree, like: PyTree) -> None:
  difference = _difference(_shapes(saved), _shapes(like))
  if difference:
    raise CheckpointError(
      f'checkpoint {path.name} in {path.parent} does not fit this model: '
      f'{difference}'
    )


def _digest(folder: pathlib.Path) -> str:
  """SHA-256 of the names and contents of the files of a checkpoint."""
  digest = hashlib.sha256()
  for path in sorted(p for p in folder.rglob('*') if p.is_file()):
    if path.name != _DIGEST:
      name = path.relative_to(folder).as_posix()
      digest.update(
        f'{name} {store.content_digest(path.read_bytes())}\n'.encode()
      )
  return digest.hexdigest()


def ocp_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of a leaf, on the default device."""
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _name(path: tuple[Any, ...]) -> str:
  """Path of a leaf, whatever its containers are."""
  keys = (jax.tree_util.keystr((key,), simple=True) for key in path)
  return '/'.join(keys)


def _leaves(tree: PyTree) -> dict[str, Any]:
  """The leaves by their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves}


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """Shape of every leaf by its path."""
  return {path: tuple(leaf.shape) for path, leaf in _leaves(tree).items()}


def _difference(
  saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> str | None:
  """The first leaf in which a checkpoint and a model differ."""
  for path in sorted(saved.keys() | wanted.keys()):
    if path not in saved:
      return f'it has no {path}, which the model has'
    if path not in wanted:
      return f'it has {path}, which the model has not'
    if saved[path] != wanted[path]:
      return f'{path} is {saved[path]} there and {wanted[path]} in the model'
  return None
