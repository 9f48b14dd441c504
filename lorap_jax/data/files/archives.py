"""Reads zip and tar archives into memory, trusting nothing that they say.

Nothing is unpacked to disk, so no name in an archive is ever used as a path. An
archive with a single entry that no data set needs (a link, a device, a place
outside the archive, a password) is refused as a whole, and sizes are bounded
before anything is decompressed.
"""

from __future__ import annotations

import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError, PathLike

_CHUNK = 1 << 20
_TAR_BLOCK = 512
_ZIP_MAGICS = (b'PK\x03\x04', b'PK\x05\x06')
_OUTSIDE = re.compile(r'/|[A-Za-z]:|.*[\\\0]', re.DOTALL)


def read_members(
  path: PathLike,
  wanted: Collection[str] | Callable[[str], bool],
  *,
  max_members: int = 1000,
  max_total: int = 1 << 31,
  max_ratio: int = 200,
) -> dict[str, bytes]:
  """Returns the wanted files of a zip, tar or tar.gz archive.

  Args:
    path: the archive.
    wanted: how the names of the wanted files end, or a function that tells a
      wanted name.
    max_members: most entries of the archive, folders included.
    max_total: most bytes of all its files together, wanted or not.
    max_ratio: most bytes of all its files per byte of the archive.

  Returns:
    The contents by name, with single slashes; of the archive's order.

  Raises:
    DataError: the archive cannot be read, is damaged or cut off, or holds what
      is refused; names the archive and the entry.
  """
  return parse_members(
    store.read_bytes(path),
    str(path),
    wanted,
    max_members=max_members,
    max_total=max_total,
    max_ratio=max_ratio,
  )


def parse_members(
  content: bytes,
  name: str,
  wanted: Collection[str] | Callable[[str], bool],
  *,
  max_members: int = 1000,
  max_total: int = 1 << 31,
  max_ratio: int = 200,
) -> dict[str, bytes]:
  """Returns the wanted files of an archive in memory, as `read_members`.

  Args:
    content: the archive.
    name: how to call the archive in an error message.
    wanted: how the names of the wanted files end, or a function that tells a
      wanted name.
    max_members: most entries of the archive, folders included.
    max_total: most bytes of all its files together, wanted or not.
    max_ratio: most bytes of all its files per byte of the archive.

  Returns:
    The contents by name, with single slashes; of the archive's order.

  Raises:
    DataError: the archive is damaged or cut off, or holds what is refused;
      names the archive and the entry.
  """
  store.refuse_web_page(content, name)
  is_wanted = wanted if callable(wanted) else _ends_with(wanted)
  max_size = min(max_total, max_ratio * len(content))
  parse = _parse_zip if content[:4] in _ZIP_MAGICS else _parse_tar
  try:
    return parse(content, name, is_wanted, max_members, max_size)
  except DataError:
    raise
  except Exception as error:  # Damage shows in a dozen types of exception.
    raise DataError(
      f'{name}: not a sound zip or tar archive; damaged or cut off ({error}).'
    ) from error


def _ends_with(suffixes: Collection[str]) -> Callable[[str], bool]:
  return lambda member: member.endswith(tuple(suffixes))


def _parse_zip(
  content: bytes,
  name: str,
  is_wanted: Callable[[str], bool],
  max_members: int,
  max_size: int,
) -> dict[str, bytes]:
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    entries = archive.infolist()
    _check_count(len(entries), name, max_members)
    _check_size(sum(entry.file_size for entry in entries), name, max_size)
    found: dict[str, bytes] = {}
    for entry in entries:
      kind = stat.S_IFMT(entry.external_attr >> 16)
      if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refusal(name, entry.filename, 'is neither a file nor a folder')
      if entry.flag_bits & 1:
        raise _refusal(name, entry.filename, 'is encrypted')
      # Other methods are not decompressed in bounded pieces.
      if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refusal(name, entry.filename, 'has an unusual compression')
      member = _clean(entry.filename, name)
      if entry.is_dir() or not is_wanted(member):
        continue
      with archive.open(entry) as file:
        _add(found, member, file.read, entry.file_size, name)
  return found


def _parse_tar(
  content: bytes,
  name: str,
  is_wanted: Callable[[str], bool],
  max_members: int,
  max_size: int,
) -> dict[str, bytes]:
  # Of each entry a header and the rest of its last block; long names take more.
  ceiling = max_size + 8 * _TAR_BLOCK * (max_members + 2)
  plain = store.gunzip(content, name, max_size=ceiling)
  _check_size(len(plain), name, ceiling)
  found: dict[str, bytes] = {}
  total = 0
  with tarfile.open(fileobj=io.BytesIO(plain), mode='r:') as archive:
    for count, entry in enumerate(archive, start=1):
      _check_count(count, name, max_members)
      total += entry.size
      _check_size(total, name, max_size)
      member = _clean(entry.name, name)
      if entry.isdir():
        continue
      if not entry.isreg() or entry.issparse():
        raise _refusal(name, entry.name, 'is neither a file nor a folder')
      if is_wanted(member) and (file := archive.extractfile(entry)):
        _add(found, member, file.read, entry.size, name)
    end = archive.offset
  # Where the list ends without its mark, a header was damaged or is missing.
  if plain[end : end + _TAR_BLOCK] != bytes(_TAR_BLOCK):
    raise DataError(f'{name}: the tar archive is damaged or cut off.')
  return found


def _add(
  found: dict[str, bytes],
  member: str,
  read: Callable[[int], bytes],
  size: int,
  name: str,
) -> None:
  if member in found:
    raise _refusal(name, member, 'is there twice')
  # In pieces: one large read may decompress more than the size announced.
  content = b''.join(iter(lambda: read(_CHUNK), b''))
  if len(content) != size:
    raise _refusal(name, member, f'has {len(content)} of {size} bytes')
  found[member] = content


def _clean(member: str, name: str) -> str:
  """Returns the name with single slashes; refuses places outside."""
  parts = [part for part in member.split('/') if part not in ('', '.')]
  if _OUTSIDE.match(member) or '..' in parts:
    raise _refusal(name, member, 'names a place outside the archive')
  return '/'.join(parts)


def _check_count(count: int, name: str, max_members: int) -> None:
  if count > max_members:
    raise DataError(f'{name}: more than {max_members} entries; refused.')


def _check_size(size: int, name: str, max_size: int) -> None:
  if size > max_size:
    raise DataError(
      f'{name}: would unpack to more than {max_size} bytes; refused.'
    )


def _refusal(name: str, member: str, what: str) -> DataError:
  return DataError(f'{name}: entry {member!r} {what}; refused.')
