"""Tests of archives, most of which mean harm."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile

import pytest

from lorap_jax.data.files import archives
from lorap_jax.data.files.store import DataError

FILES = {'set/a.txt': b'one ' * 500, 'set/b.bin': bytes(range(256)) * 9}


def make_zip(files, compression=zipfile.ZIP_DEFLATED):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', compression) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def make_tar(files, *entries, compress=gzip.compress):
  """A tar archive of files, and of entries without content."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
    for info in entries:
      archive.addfile(info)
  return compress(buffer.getvalue())


def make_plain_tar(files, *entries):
  return make_tar(files, *entries, compress=bytes)


MAKERS = [make_zip, make_tar, make_plain_tar]


def read(content, **limits):
  return archives.parse_members(content, 'mine', ['.txt', '.bin'], **limits)


@pytest.mark.parametrize('make', MAKERS)
def test_wanted_members_are_read(tmp_path, make):
  path = tmp_path / 'archive'
  path.write_bytes(make({**FILES, 'set/readme': b'?'}))
  assert archives.read_members(path, ['.txt', '.bin']) == FILES
  assert archives.read_members(path, ['.txt']).keys() == {'set/a.txt'}
  by_function = archives.read_members(path, lambda name: name == 'set/b.bin')
  assert by_function.keys() == {'set/b.bin'}


@pytest.mark.parametrize('make', MAKERS)
def test_names_are_normalised(make):
  found = read(make({'set//a.txt': b'1', './set/./b.bin': b'2'}))
  assert found == {'set/a.txt': b'1', 'set/b.bin': b'2'}


def test_folders_are_no_members():
  folder = tarfile.TarInfo('set.txt')
  folder.type = tarfile.DIRTYPE
  assert read(make_tar(FILES, folder)) == FILES
  assert read(make_zip({**FILES, 'x.txt/': b''})) == FILES


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize(
  'name', ['/a.txt', '../a.txt', 'set/../../a.txt', 'C:/a.txt', 'set\\a.txt']
)
def test_places_outside_are_refused(make, name):
  # Also where nobody wants the member.
  with pytest.raises(DataError, match='mine: entry .*place outside'):
    archives.parse_members(make({**FILES, name: b'!'}), 'mine', ['.bin'])


@pytest.mark.parametrize(
  'kind',
  [
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
  ],
)
def test_links_and_devices_in_a_tar_are_refused(kind):
  entry = tarfile.TarInfo('set/c.txt')
  entry.type, entry.linkname = kind, 'set/a.txt'
  with pytest.raises(DataError, match="'set/c.txt' is neither a file"):
    read(make_tar(FILES, entry))


def test_sparse_files_in_a_tar_are_refused():
  entry = tarfile.TarInfo('set/c.txt')
  header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
  header[156:157] = tarfile.GNUTYPE_SPARSE
  header[483:495] = b'00001000000\0'  # The real size.
  header[148:156] = b' ' * 8
  header[148:156] = b'%06o\0 ' % sum(header)
  with pytest.raises(DataError, match='neither a file'):
    read(bytes(header) + bytes(1024))


@pytest.mark.parametrize('kind', [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(kind):
  entry = zipfile.ZipInfo('set/c.txt')
  entry.external_attr = (kind | 0o644) << 16
  with pytest.raises(DataError, match="'set/c.txt' is neither a file"):
    read(make_zip({entry: b'/etc/passwd'}))


@pytest.mark.parametrize('make', MAKERS)
def test_limits(make):
  content = make(FILES)
  total = sum(map(len, FILES.values()))
  assert read(content, max_members=2, max_total=total) == FILES
  with pytest.raises(DataError, match='mine: more than 1 entries'):
    read(content, max_members=1)
  with pytest.raises(DataError, match=f'more than {total - 1} bytes'):
    read(content, max_total=total - 1)


@pytest.mark.parametrize('make', [make_zip, make_tar])
def test_bombs_are_refused(make):
  content = make({'a.txt': bytes(1 << 21)})
  with pytest.raises(DataError, match='would unpack to more than'):
    read(content)
  assert len(read(content, max_ratio=2000)['a.txt']) == 1 << 21


def test_unwanted_bombs_are_refused_too():
  with pytest.raises(DataError, match='would unpack to more than'):
    read(make_zip({'a.dat': bytes(1 << 21)}))


def patch(content, signature, offset, layout, value):
  """Writes a number into each zip header with this signature."""
  content = bytearray(content)
  start = -1
  while (start := content.find(signature, start + 1)) >= 0:
    struct.pack_into(layout, content, start + offset, value)
  return bytes(content)


def test_encrypted_members_are_refused():
  content = patch(make_zip(FILES), b'PK\x01\x02', 8, '<H', 1)
  with pytest.raises(DataError, match="'set/a.txt' is encrypted"):
    read(content)


def test_a_bomb_that_lies_about_its_size_is_refused():
  content = make_zip({'a.txt': bytes(1 << 21)})
  for signature, offset in ((b'PK\x01\x02', 24), (b'PK\x03\x04', 22)):
    content = patch(content, signature, offset, '<I', 10)
  with pytest.raises(DataError, match='CRC-32'):
    read(content)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compression_is_refused(method):
  with pytest.raises(DataError, match='unusual compression'):
    read(make_zip(FILES, method))


def test_equal_names_are_refused():
  for make in (make_zip, make_tar):
    with pytest.raises(DataError, match="'set/a.txt' is there twice"):
      read(make({**FILES, 'set//a.txt': b'other'}))


@pytest.mark.parametrize('make', MAKERS)
def test_cut_archives_are_refused(make):
  sound = make(FILES)
  last = len(sound)
  if make is make_plain_tar:
    last = 512 * (1 + 4 + 1 + 5)  # Headers and blocks; zeros follow.
  for end in range(0, last, 97):
    with pytest.raises(DataError, match='mine'):
      read(sound[:end])


@pytest.mark.parametrize('make', [make_zip, make_tar])
def test_a_flipped_byte_never_changes_a_content(make):
  sound = make(FILES)
  refused = 0
  for position in range(0, len(sound), 3):
    damaged = bytearray(sound)
    damaged[position] ^= 0x55
    try:
      found = read(bytes(damaged))
    except DataError as error:
      assert 'mine' in str(error)
      refused += 1
    else:  # A time stamp, or a name that is no longer wanted.
      assert all(content in FILES.values() for content in found.values())
  assert refused > len(sound) / 6


def test_a_damaged_tar_header_is_no_end():
  damaged = bytearray(make_plain_tar(FILES))
  damaged[512 * 5] ^= 1  # Name of the second file: its checksum fails.
  with pytest.raises(DataError, match='damaged or cut off'):
    read(bytes(damaged))


def test_other_files_are_named(tmp_path):
  for content, reason in (
    (b'', 'not a sound zip or tar'),
    (b'\n <html>', 'web page'),
    (b'plain text ' * 100, 'not a sound zip or tar'),
  ):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(DataError, match=f'{tmp_path}/x: .*{reason}'):
      archives.read_members(tmp_path / 'x', ['.txt'])
  with pytest.raises(DataError, match='cannot be read'):
    archives.read_members(tmp_path / 'y', ['.txt'])
