"""The page of a run: what it says, and how a browser shows it."""

import html.parser
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image
from run_folder import metrics, read

from lorap_jax.reports import page, tables
from lorap_jax.runs import workdir

BROWSER = next(
  filter(
    None,
    map(
      shutil.which,
      ('chromium', 'chromium-browser', 'google-chrome', 'chrome'),
    ),
  ),
  None,
)
OPTIONS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
SECTIONS = {
  'run': [
    'learning-curves',
    'quantization-by-layer',
    'quantization-by-in-degree',
    'prompts-on-aggregates',
    'cost',
    'provenance',
  ],
  'group': ['members', 'learning-curves', 'cost', 'provenance'],
}
# Reports, in the page, what a browser made of it.
PROBE = """<script>
const all = selector => [...document.querySelectorAll(selector)];
const box = e => e.getBoundingClientRect();
const wide = all('body *').filter(e =>
  !e.closest('.scroll > *') && box(e).right > innerWidth + 1);
const flat = all('svg').filter(e =>
  box(e).height < 100 || !e.querySelector('path'));
const low = all('section').filter(e => box(e).height < 50);
document.title = `wide ${wide.length} of ${innerWidth}, ` +
  `scrolls ${document.documentElement.scrollWidth > innerWidth}, ` +
  `flat ${flat.length}, low ${low.length}`;
</script></body>"""


@pytest.fixture(scope='module')
def folders(tmp_path_factory, finished_graphs, finished_pair):
  """Work folders of a run on batches and of a group on one graph."""
  root = tmp_path_factory.mktemp('pages')
  for name, folder in (
    ('run', finished_graphs.folder),
    ('group', finished_pair),
  ):
    shutil.copytree(folder, root / name)
    # Others may have made a page of the run that they share.
    (root / name / 'report.html').unlink(missing_ok=True)
  return root


@pytest.fixture(scope='module')
def texts(folders):
  return {
    name: page.write(folders / name, command='python train.py <x>').read_text()
    for name in SECTIONS
  }


@pytest.mark.parametrize('name', SECTIONS)
class TestText:
  def test_sections(self, texts, name):
    assert re.findall(r'<section id="([^"]*)"', texts[name]) == SECTIONS[name]

  def test_result_is_that_of_the_report(self, folders, texts, name):
    found = tables.figures(read(folders / name))
    for value in found._replace(metric=''):
      assert value in texts[name]
    assert 'Compares with nothing published: random graphs' in texts[name]

  def test_asks_for_nothing(self, texts, name):
    text = texts[name]
    assert not re.search(r'<(script|link|img|iframe|object|embed)\b', text)
    assert not re.search(r'\bsrc=|@import|url\((?!#)', text)
    links = re.findall(r'href="([^"]*)"', text)
    assert all(link.startswith('#') for link in links)

  def test_elements_are_closed_and_texts_escaped(self, texts, name):
    opened = []

    class Check(html.parser.HTMLParser):
      def handle_starttag(self, tag, attrs):
        if tag not in ('meta', 'br'):
          opened.append(tag)

      def handle_startendtag(self, tag, attrs):
        pass

      def handle_endtag(self, tag):
        assert opened.pop() == tag

    Check().feed(texts[name])
    assert not opened
    assert 'python train.py &lt;x&gt;' in texts[name]

  def test_is_made_again_for_a_newer_report_only(self, folders, texts, name):
    path = folders / name / 'report.html'
    path.write_text('mine')
    assert page.write(folders / name) == path
    assert path.read_text() == 'mine'
    os.utime(path, (0, 0))
    page.write(folders / name, command='python train.py <x>')
    assert path.read_text() == texts[name]


def test_every_point_has_its_row(folders, texts):
  points = read(folders / 'run')['points']
  assert len(points) > 5
  rows = texts['run'].partition('quantization-by-layer')[2].split('</section>')
  for point in points:
    assert f'>{point["layer"]}<' in rows[0]
    assert f'{100 * point["error"]:.1f} %<' in rows[0]
  assert rows[0].count('<tr>') == len(points) + 1


def test_members_of_a_group(folders, texts):
  for member in read(folders / 'group')['members']:
    assert f'>{100 * member["test"]:.2f} %</td>' in texts['group']


def test_provenance(folders, texts):
  report = read(folders / 'run')
  for value in (*report['versions'].values(), report['device']):
    assert value in texts['run']
  assert 'optim.learning_rate' in texts['run']
  assert '>40 / 20 / 21<' in texts['run']


def test_report_of_a_version_without_points(folders):
  report = read(folders / 'run')
  del report['points']
  text = page.of_run(report, metrics(folders / 'run'))
  assert 'quantization-by' not in text and 'id="cost"' in text


def test_folder_without_a_report(tmp_path):
  with pytest.raises(workdir.WorkdirError, match=r'report\.json'):
    page.write(tmp_path)


def browse(tmp_path, url, *options):
  return subprocess.run(
    [
      BROWSER,
      *OPTIONS,
      f'--user-data-dir={tmp_path / "profile"}',
      *options,
      url,
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  ).stdout


@pytest.mark.skipif(BROWSER is None, reason='no chromium or chrome on the PATH')
@pytest.mark.parametrize('name', SECTIONS)
class TestBrowser:
  @pytest.mark.parametrize('width', [500, 1200])
  def test_lies_within_the_window(self, texts, tmp_path, name, width):
    copy = tmp_path / 'page.html'
    copy.write_text(texts[name].replace('</body>', PROBE))
    dom = browse(
      tmp_path, copy.as_uri(), f'--window-size={width},900', '--dump-dom'
    )
    title = re.search('<title>(.*?)</title>', dom)[1]
    found = re.fullmatch(
      r'wide (\d+) of (\d+), scrolls (\w+), flat (\d+), low (\d+)', title
    )
    assert found, title
    assert abs(int(found[2]) - width) < 30
    assert found.group(1, 3, 4, 5) == ('0', 'false', '0', '0')

  def test_is_painted(self, folders, texts, tmp_path, name):
    image = tmp_path / 'page.png'
    path = folders / name / 'report.html'
    browse(
      tmp_path,
      path.as_uri(),
      '--window-size=1000,3000',
      f'--screenshot={image}',
    )
    with Image.open(image) as picture:
      pixels = picture.convert('RGB')
      assert pixels.size == (1000, 3000)
      colors = {color for _, color in pixels.getcolors(1 << 24)}
    # Those of the curves of validation and test, and the text.
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)} <= colors
    assert min(map(sum, colors)) < 120
