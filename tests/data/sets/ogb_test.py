"""Tests of the OGB loaders, on small SYNTHETIC files in OGB's layout."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from run_folder import made_in

import lorap_jax
from configs import ogbn_mag
from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import ogb, ogb_files
from lorap_jax.data.sets.ogb_files import Counts

LOADERS = {'ARXIV': ogb.load_ogbn_arxiv, 'MAG': ogb.load_ogbn_mag}
NODES = np.arange(24, dtype=np.float32).reshape(8, 3) / 8 - 1
LABELS = [0, 1, 2, 3, 0, 1, 2, 3]
# Edge 0-1 is there in both directions, 2-3 twice; 4 cites itself.
EDGES = [(0, 1), (1, 0), (2, 3), (2, 3), (4, 4), (7, 5)]
SPLITS = {'train': [0, 3, 1, 2], 'valid': [5, 4], 'test': [6, 7]}
COUNTS = Counts(8, 6, 3, 4, 4, 2, 2)


@pytest.fixture
def tables():
  """Text of the tables by their key in `OgbTables.files`; 8 nodes, 6 edges."""
  return {
    'num_nodes': '8\n',
    'num_edges': '6\n',
    'edges': ''.join(f'{u},{v}\n' for u, v in EDGES),
    'nodes': ''.join(','.join(map(str, row)) + '\n' for row in NODES.tolist()),
    'labels': ''.join(f'{label}\n' for label in LABELS),
    **{k: ''.join(f'{i}\n' for i in ids) for k, ids in SPLITS.items()},
  }


def contents(kind, tables):
  """Returns the bytes of the files by their path."""
  if kind == 'MAG' and tables['num_nodes'] == '8\n':
    header = 'author,field_of_study,institution,paper\n'
    tables = {**tables, 'num_nodes': f'{header}5,3,2,8\n'}
  layout = getattr(ogb_files, kind)
  return {
    layout.files[key]: gzip.compress(text.encode(), mtime=0)
    for key, text in tables.items()
  }


def write(folder, kind, tables):
  for name, content in contents(kind, tables).items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  return folder


def archive(kind, tables):
  """Returns the official zip, with some of the files that are not read."""
  top = getattr(ogb_files, kind).archive
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as writer:
    writer.writestr(f'{top}/', b'')
    writer.writestr(f'{top}/RELEASE_v1.txt', b'')
    writer.writestr(f'{top}/mapping/README.md', b'# Mappings')
    for name, content in contents(kind, tables).items():
      writer.writestr(f'{top}/{name}', content)
  return file.getvalue()


def check_small(data):
  data.check()
  np.testing.assert_array_equal(data.nodes, NODES)
  assert data.nodes.dtype == np.float32
  pairs = list(zip(data.receivers.tolist(), data.senders.tolist(), strict=True))
  assert pairs == [(0, 1), (1, 0), (2, 3), (3, 2), (4, 4), (5, 7), (7, 5)]
  assert data.labels.tolist() == LABELS and data.num_classes == 4
  for split, ids in SPLITS.items():
    mask = getattr(data, f'{split}_mask')
    assert np.flatnonzero(mask).tolist() == sorted(ids)


@pytest.mark.parametrize('kind', LOADERS)
@pytest.mark.parametrize('place', ['', 'archive', 'ogbn', 'zip'])
def test_data_dir_layouts(tables, tmp_path, kind, place):
  layout = getattr(ogb_files, kind)
  if place == 'zip':
    content = archive(kind, tables)
    (tmp_path / f'{layout.archive}.zip').write_bytes(content)
  else:
    names = {'archive': layout.archive, 'ogbn': f'ogbn_{layout.archive}'}
    write(tmp_path / names.get(place, ''), kind, tables)
  data = LOADERS[kind](data_dir=tmp_path, expect=COUNTS)
  check_small(data)
  record = json.loads(json.dumps(data.source))
  assert record['name'] == layout.name and record['origin'] == 'data_dir'
  assert record['counts'] == COUNTS._asdict()
  assert list(record['sha256']) == list(layout.files.values())
  assert not record['comparable'] and 'NOT the published' in record['note']
  assert len(record['files']) == (1 if place == 'zip' else 8)


@pytest.mark.parametrize('kind', LOADERS)
def test_published_sizes_make_it_comparable(
  tables, tmp_path, monkeypatch, kind
):
  layout = getattr(ogb_files, kind)._replace(published=COUNTS)
  monkeypatch.setattr(ogb_files, kind, layout)
  record = LOADERS[kind](
    data_dir=write(tmp_path, kind, tables), expect=None
  ).source
  assert record['comparable'] and 'NOT' not in record['note']
  assert layout.limits in record['note']


@pytest.mark.parametrize('kind', LOADERS)
def test_published_sizes_are_expected_by_default(tables, tmp_path, kind):
  layout = getattr(ogb_files, kind)
  published = layout.published
  assert published.train + published.valid + published.test == published.nodes
  with pytest.raises(
    DataError,
    match=f'{tmp_path}.*num-node.*expected {published.nodes} nodes, found 8',
  ):
    LOADERS[kind](data_dir=write(tmp_path, kind, tables))


@pytest.mark.parametrize('key', COUNTS._fields)
@pytest.mark.parametrize('cached', [False, True])
def test_each_size_is_checked(tables, tmp_path, key, cached):
  write(tmp_path, 'ARXIV', tables)
  if cached:
    ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=None)
  expect = COUNTS._replace(**{key: 99})
  with pytest.raises(DataError, match=f'{tmp_path}.*expected 99'):
    ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=expect)


def test_data_dir_must_be_complete(tables, tmp_path):
  write(tmp_path / 'arxiv', 'ARXIV', tables)
  path = tmp_path / 'arxiv' / 'split' / 'time' / 'valid.csv.gz'
  path.unlink()
  with pytest.raises(
    DataError, match='found .*arxiv/raw/edge.csv.gz.*Put in it arxiv.zip or the'
  ):
    ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=None)
  with pytest.raises(DataError, match='ogbn-mag is not complete.*none of its'):
    ogb.load_ogbn_mag(data_dir=tmp_path, expect=None)


@pytest.mark.parametrize(
  ('key', 'text', 'reason'),
  [
    ('num_nodes', '9\n', 'edge.*|node-label.csv.gz: .*8 rows, expected 9'),
    ('num_nodes', 'many\n', 'num-node-list.csv.gz: expected a single number'),
    ('num_edges', '5\n', 'edge.csv.gz: .*more than 5 rows'),
    ('num_edges', '7\n', 'edge.csv.gz: .*6 rows, expected 7'),
    ('edges', '0,1\n' * 5 + '0,8\n', 'edge.csv.gz: row 5 is not made of'),
    ('edges', '0,1,2\n' * 6, 'edge.csv.gz: .*3 columns, expected 2'),
    ('nodes', '1,2\n' * 7, 'node-feat.csv.gz: .*7 rows, expected 8'),
    ('nodes', '1,nan\n' * 8, 'node 0 has a feature that is not finite'),
    ('labels', '-1\n' * 8, 'node-label.csv.gz: row 0 is not'),
    ('labels', '0,0\n' * 8, 'node-label.csv.gz: .*2 columns'),
    ('train', '8\n', 'train.csv.gz: row 0 is not made of integers from 0 to 7'),
    ('train', '0\n0\n', 'train.csv.gz: a node is there twice'),
    ('train', '4\n', 'node 4 is in the train and in the valid split'),
    ('test', '', 'test.csv.gz: .*0 rows'),
  ],
)
def test_structural_errors(tables, tmp_path, key, text, reason):
  write(tmp_path, 'ARXIV', {**tables, key: text})
  with pytest.raises(DataError, match=f'{tmp_path}.*({reason})'):
    ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=None)


def test_papers_must_be_counted(tables, tmp_path):
  write(tmp_path, 'MAG', {**tables, 'num_nodes': 'author\n8\n'})
  with pytest.raises(DataError, match="num-node-dict.csv.gz: .*for 'paper'"):
    ogb.load_ogbn_mag(data_dir=tmp_path, expect=None)


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    (lambda zipped: zipped[: len(zipped) // 2], 'not a sound zip'),
    (lambda zipped: b'<html>' + zipped, 'web page'),
    (
      lambda zipped: zipped.replace(b'raw/edge', b'raw/edgy'),
      'it has no raw/e',
    ),
    (lambda zipped: b'', 'not a sound zip'),
  ],
)
def test_damaged_archives_are_named(tables, tmp_path, damage, reason):
  path = tmp_path / 'arxiv.zip'
  path.write_bytes(damage(archive('ARXIV', tables)))
  with pytest.raises(DataError, match=f'{path}: .*{reason}'):
    ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=None)


def test_unknown_archives_are_reported(tables, tmp_path, monkeypatch, caplog):
  content = archive('ARXIV', tables)
  (tmp_path / 'arxiv.zip').write_bytes(content)
  ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=None)
  digest = store.content_digest(content)
  assert f'has SHA-256 {digest} where others found' in caplog.text
  caplog.clear()
  known = ogb_files.ARXIV._replace(archive_sha256=digest)
  monkeypatch.setattr(ogb_files, 'ARXIV', known)
  ogb.load_ogbn_arxiv(data_dir=tmp_path, expect=None)
  assert 'where others found' not in caplog.text


@pytest.fixture
def cached(tables, tmp_path, cache):
  """A folder with files that were parsed, and the file of their arrays."""
  folder = write(tmp_path / 'given', 'ARXIV', tables)
  ogb.load_ogbn_arxiv(data_dir=folder, expect=None)
  (path,) = made_in(cache / 'ogb')
  return folder, path


def test_cache_is_used(cached, tables, monkeypatch):
  folder, _ = cached
  monkeypatch.setattr(ogb, '_parse', None)
  check_small(ogb.load_ogbn_arxiv(data_dir=folder, expect=None))
  # The same tables in an archive are the same data.
  (folder / 'arxiv.zip').write_bytes(archive('ARXIV', tables))
  (folder / 'raw' / 'edge.csv.gz').unlink()
  check_small(ogb.load_ogbn_arxiv(data_dir=folder, expect=None))


def test_damaged_cache_is_made_again(cached, caplog):
  folder, path = cached
  path.write_bytes(path.read_bytes()[:-100])
  check_small(ogb.load_ogbn_arxiv(data_dir=folder, expect=None))
  assert f'{path} is damaged and is made again' in caplog.text
  store.load_arrays(path)


@pytest.mark.parametrize('change', ['file', 'version'])
def test_cache_key_knows_what_matters(cached, tables, monkeypatch, change):
  folder, path = cached
  if change == 'file':
    write(folder, 'ARXIV', {**tables, 'labels': '0\n1\n' * 4})
  else:
    monkeypatch.setattr(ogb, '_CODE_VERSION', -1)
  ogb.load_ogbn_arxiv(data_dir=folder, expect=None)
  assert len(made_in(path.parent)) == 2


@pytest.fixture
def mirror(server, tables, monkeypatch):
  for kind, name in (('ARXIV', 'arxiv'), ('MAG', 'mag')):
    server.add(f'/ogb/{name}.zip', archive(kind, tables))
  monkeypatch.setattr(ogb_files, 'MIRRORS', (f'{server.url}/ogb/',))
  return server


@pytest.mark.parametrize('kind', LOADERS)
def test_download_happens_once(mirror, cache, kind):
  data = LOADERS[kind](expect=None)
  check_small(data)
  name = f'{getattr(ogb_files, kind).archive}.zip'
  assert data.source['origin'] == 'download'
  assert data.source['files'] == [str(cache / 'ogb' / name)]
  LOADERS[kind](expect=None)
  check_small(LOADERS[kind](source='download', offline=True, expect=None))
  assert mirror.requests == [f'/ogb/{name}']


def test_damaged_download_is_replaced(mirror, cache, caplog):
  ogb.load_ogbn_arxiv(expect=None)
  path = cache / 'ogb' / 'arxiv.zip'
  path.write_bytes(path.read_bytes()[:-200])
  check_small(ogb.load_ogbn_arxiv(expect=None))
  assert 'arxiv.zip is damaged and is downloaded again' in caplog.text


@pytest.mark.parametrize(
  ('page', 'reason'),
  [
    ((404, {}, b''), '404'),
    ((200, {}, b'<!DOCTYPE html><html>log in</html>'), 'web page'),
    ((200, {'Content-Length': 99999}, b'PK\x03\x04'), 'connection ended'),
    ((200, {}, b'PK\x03\x04' + bytes(99)), 'not a sound zip'),
  ],
)
def test_bad_downloads_say_what_to_put_where(mirror, cache, page, reason):
  mirror.pages['/ogb/arxiv.zip'] = page
  with pytest.raises(
    DataError,
    match=f'{reason}.*put arxiv.zip or the files raw/num-node.*data_d',
  ):
    ogb.load_ogbn_arxiv(expect=None)
  assert not made_in(cache / 'ogb')


def test_offline_asks_no_server(mirror):
  with pytest.raises(DataError, match='offline, and not downloaded.*data_dir'):
    ogb.load_ogbn_mag(offline=True)
  assert not mirror.requests


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'source': 'web'}, "source is 'web'"),
    ({'source': 'data_dir'}, 'data_dir is None'),
    ({'data_dir': '/nowhere/at/all'}, '/nowhere/at/all: no such folder'),
  ],
)
def test_bad_arguments(arguments, reason):
  with pytest.raises(ValueError, match=reason):
    ogb.load_ogbn_arxiv(**arguments)


KINDS = {'paper': 8, 'author': 3, 'field_of_study': 2, 'institution': 2}
# Author 0 wrote papers 0 and 1, author 1 paper 2, author 2 none.
HETEROGENEOUS = {
  'author___affiliated_with___institution': [(0, 1), (1, 1)],
  'author___writes___paper': [(0, 0), (0, 1), (1, 2)],
  'paper___cites___paper': EDGES,
  'paper___has_topic___field_of_study': [(0, 0), (4, 0), (4, 1)],
}


def write_all(folder, tables, edges=HETEROGENEOUS):
  """The files of the official archive, those that are not read among them."""
  text = lambda rows: ''.join(','.join(map(str, row)) + '\n' for row in rows)
  files = {
    'raw/num-node-dict': text(
      [sorted(KINDS), [KINDS[k] for k in sorted(KINDS)]]
    ),
    'raw/triplet-type-list': text(name.split('___') for name in edges),
    'raw/nodetype-has-feat': text(
      [sorted(KINDS), [k == 'paper' for k in sorted(KINDS)]]
    ),
    'raw/node-feat/paper/node-feat': tables['nodes'],
    'raw/node-feat/paper/node_year': '2010\n' * 8,
    'raw/node-label/paper/node-label': tables['labels'],
    **{f'split/time/paper/{split}': tables[split] for split in SPLITS},
  }
  for i, (name, rows) in enumerate(edges.items()):
    place = f'raw/relations/{name}'
    files[f'{place}/edge'] = text(rows)
    files[f'{place}/edge_reltype'] = f'{i}\n' * len(rows)
    files[f'{place}/num-edge-list'] = f'{len(rows)}\n'
  for name, content in files.items():
    path = folder / f'{name}.csv.gz'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode(), mtime=0))
  return folder


@pytest.mark.parametrize('cached', [False, True])
def test_all_relations_of_mag(tables, tmp_path, cached):
  folder = write_all(tmp_path, tables)
  load = lambda: ogb.load_ogbn_mag(
    relations=True, data_dir=folder, expect=COUNTS
  )
  data = load() if not cached else (load(), load())[1]
  data.check()
  start, offset = {}, 0
  for kind, count in KINDS.items():
    start[kind], offset = offset, offset + count
  edges = set()
  for r, (name, rows) in enumerate(HETEROGENEOUS.items()):
    sender, _, receiver = name.split('___')
    for u, v in rows:
      u, v = u + start[sender], v + start[receiver]
      edges |= {(v, r, u), (u, r + 4, v)}
  found = (data.receivers, data.relations, data.senders)
  found = [tuple(map(int, edge)) for edge in zip(*found, strict=True)]
  assert found == sorted(edges) and data.num_relations == 8
  nodes = np.zeros((15, 7), np.float32)
  nodes[:8, :3] = NODES
  nodes[8, :3] = NODES[:2].mean(0)  # The authors; the last has no paper.
  nodes[9, :3] = NODES[2]
  nodes[11, :3] = NODES[[0, 4]].mean(0)  # The fields.
  nodes[12, :3] = NODES[4]
  nodes[14, :3] = nodes[8:10, :3].mean(0)  # The institution with authors.
  for i, (kind, count) in enumerate(KINDS.items()):
    nodes[start[kind] : start[kind] + count, 3 + i] = 1
  np.testing.assert_allclose(data.nodes, nodes, atol=1e-6)
  assert data.labels.tolist() == LABELS + [-1] * 7
  for split, ids in SPLITS.items():
    mask = getattr(data, f'{split}_mask')
    assert np.flatnonzero(mask).tolist() == sorted(ids)
  assert data.source['counts']['author'] == 3
  assert not data.source['comparable']
  check_small(ogb.load_ogbn_mag(data_dir=folder, expect=COUNTS))


def test_nodes_of_all_kinds_are_counted(tables, tmp_path, monkeypatch):
  folder = write_all(tmp_path, tables)
  layout = ogb_files.MAG_RELATIONS._replace(published=COUNTS)
  monkeypatch.setattr(ogb_files, 'MAG_RELATIONS', layout)
  load = lambda: ogb.load_ogbn_mag(
    relations=True, data_dir=folder, expect=COUNTS
  )
  with pytest.raises(DataError, match='expected 1134649 author, found 3'):
    load()
  others = tuple((kind, KINDS[kind]) for kind, _ in layout.others)
  whole = layout._replace(others=others)
  monkeypatch.setattr(ogb_files, 'MAG_RELATIONS', whole)
  assert load().source['comparable']


@pytest.mark.parametrize(
  ('relation', 'rows', 'reason'),
  [
    ('author___writes___paper', [(3, 0)], 'row 0 names no author or no paper'),
    ('author___writes___paper', [(0, 8)], 'row 0 is not made of integers'),
    ('paper___has_topic___field_of_study', [(0, 0), (1, 2)], 'row 1 names no'),
  ],
)
def test_edges_to_no_node_are_named(tables, tmp_path, relation, rows, reason):
  folder = write_all(tmp_path, tables, {**HETEROGENEOUS, relation: rows})
  with pytest.raises(DataError, match=f'{relation}/edge.csv.gz: {reason}'):
    ogb.load_ogbn_mag(relations=True, data_dir=folder, expect=None)


def test_a_missing_relation_is_named(tables, tmp_path):
  folder = write_all(tmp_path, tables)
  name = 'raw/relations/author___writes___paper/edge.csv.gz'
  (folder / name).unlink()
  with pytest.raises(DataError, match='ogbn-mag is not complete'):
    ogb.load_ogbn_mag(relations=True, data_dir=folder, expect=None)


@pytest.mark.slow
def test_rgcn_trains_on_all_relations(tables, tmp_path):
  data = ogb.load_ogbn_mag(
    relations=True, data_dir=write_all(tmp_path, tables), expect=None
  )
  config = ogbn_mag.get_config('rgcn,dq4,gpf_lorap')
  config.data.relations = True
  config.model.features = 8
  config.train.epochs = 1
  report = lorap_jax.train_and_evaluate(config, tmp_path / 'run', data=data)
  assert report['config']['data']['relations'] is True
  assert report['config']['train']['fanout'] == (25, 20)
  kernel = lorap_jax.load_run(tmp_path / 'run').variables['params']['conv_0']
  assert kernel['dense']['kernel'].shape == ((1 + 8) * 7, 8)
