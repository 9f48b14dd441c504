"""Checkpoints. The only module that knows Orbax."""

import pathlib
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from lorap_jax._typing import PyTree


class CheckpointError(ValueError):
  """A checkpoint that cannot be read."""


class Checkpoints:
  """The newest and the best state of a run, in `latest` and `best`.

  Each folder keeps one checkpoint. A new one is complete on disk before the
  old one is removed.

  Attributes:
    directory: parent of both.
  """

  def __init__(self, directory: pathlib.Path):
    self.directory = directory.absolute()
    self._open: dict[str, ocp.training.Checkpointer] = {}

  def _checkpointer(self, kind: str) -> ocp.training.Checkpointer:
    if kind not in self._open:
      self._open[kind] = ocp.training.Checkpointer(
        str(self.directory / kind),
        # Orbax's own annotations disagree here.
        preservation_policy=ocp.training.preservation_policies.LatestN(1),  # pyrefly: ignore
        cleanup_tmp_directories=True,
      )
    return self._open[kind]

  def save(
    self, kind: str, step: int, state: PyTree, progress: dict[str, Any]
  ) -> None:
    """Writes a checkpoint; returns when it is complete.

    Args:
      kind: `latest` or `best`.
      step: its number, the optimizer steps taken.
      state: tree of arrays.
      progress: JSON-able position and history of the run.
    """
    self._checkpointer(kind).save(
      step,
      state,
      overwrite=True,
      custom_metadata=progress,
    )

  def step(self, kind: str) -> int | None:
    """Number of the checkpoint in `kind`, None if there is none."""
    if not (self.directory / kind).is_dir():
      return None
    latest = self._checkpointer(kind).latest
    return None if latest is None else latest.step

  def load(self, kind: str, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      kind: `latest` or `best`.
      like: a state of the same structure, or its `jax.eval_shape`.

    Returns:
      The state and the progress saved with it.

    Raises:
      CheckpointError: none there, of another structure, or damaged.
    """
    step = self.step(kind)
    if step is None:
      raise CheckpointError(f'no {kind} checkpoint in {self.directory / kind}')
    checkpointer = self._checkpointer(kind)
    metadata = checkpointer.metadata(step)
    # Before anything is read: Orbax leaves reads open when a load fails.
    self._check(kind, step, metadata.metadata, like)
    try:
      state = checkpointer.load(step, jax.tree.map(ocp_abstract, like))
    except Exception as error:  # Orbax wraps the useful one.
      reason = error.__cause__ or error
      raise CheckpointError(
        f'checkpoint {step} in {self.directory / kind} is damaged: '
        f'{str(reason).splitlines()[0]}'
      ) from error
    return state, cast(dict[str, Any], metadata.custom_metadata)

  def _check(self, kind: str, step: int, saved: PyTree, like: PyTree) -> None:
    difference = _difference(_shapes(saved), _shapes(like))
    if difference:
      raise CheckpointError(
        f'checkpoint {step} in {self.directory / kind} does not fit this '
        f'model: {difference}'
      )

  def load_entries(self, kind: str, like: dict[str, PyTree]) -> dict[str, Any]:
    """Reads some entries of a state, whatever the others are.

    Args:
      kind: `latest` or `best`.
      like: entries of the same structure, or their `jax.eval_shape`.

    Returns:
      The entries as nested dicts of arrays.

    Raises:
      CheckpointError: none there, or entries of another structure.
    """
    saved = self.load_arrays(kind)
    found = {name: saved.get(name) or {} for name in like}
    self._check(kind, self.step(kind) or 0, found, like)
    return found

  def load_arrays(self, kind: str) -> dict[str, Any]:
    """Reads a checkpoint of whatever structure.

    Args:
      kind: `latest` or `best`.

    Returns:
      The state as nested dicts of arrays.

    Raises:
      CheckpointError: none there.
    """
    step = self.step(kind)
    if step is None:
      raise CheckpointError(f'no {kind} checkpoint in {self.directory / kind}')
    checkpointer = self._checkpointer(kind)
    # Without shapes, arrays would go to the device they were saved from.
    like = jax.tree.map(ocp_abstract, checkpointer.metadata(step).metadata)
    return cast(dict[str, Any], checkpointer.load(step, like))

  def close(self) -> None:
    """Waits for what is being written."""
    for checkpointer in self._open.values():
      checkpointer.close()
    self._open.clear()


def ocp_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of a leaf, on the default device."""
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """Shape of every leaf by its path, whatever its containers are."""

  def shape(leaf: Any) -> tuple[int, ...]:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and (
      jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ):  # Saved as the integers it holds.
      leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)

  return {
    '/'.join(jax.tree_util.keystr((key,), simple=True) for key in path): (
      shape(leaf)
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


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
