"""A local web server and small stand-ins for the files of MNIST."""

import gzip
import http.server
import threading
import time

import numpy as np
import pytest

from lorap_jax.data.files import idx, store
from lorap_jax.data.sets import mnist, mnist_files


class Server:
  """Serves `pages[path] = (status, headers, body)`; records the requests."""

  def __init__(self):
    self.pages = {}
    self.requests = []
    self.delay_s = 0.0
    owner = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        owner.requests.append(self.path)
        time.sleep(owner.delay_s)
        missing = (404, {}, b'not here')
        status, headers, body = owner.pages.get(self.path, missing)
        self.send_response(status)
        for key, value in {'Content-Length': len(body), **headers}.items():
          self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, *args):
        del args

    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    # It looks every hundredth of a second whether it is to stop.
    self._thread = threading.Thread(
      target=self._server.serve_forever, args=(0.01,)
    )
    self._thread.start()
    self.url = f'http://127.0.0.1:{self._server.server_address[1]}'

  def add(self, path, body, **headers):
    self.pages[path] = (200, headers, body)
    return self.url + path

  def close(self):
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()


@pytest.fixture
def server():
  instance = Server()
  yield instance
  instance.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """Keeps every test away from the cache of the user."""
  folder = tmp_path / 'cache'
  monkeypatch.setenv('LORAP_JAX_CACHE', str(folder))
  for name in ('http_proxy', 'HTTP_PROXY'):
    monkeypatch.delenv(name, raising=False)
  return folder


@pytest.fixture
def small_mnist(monkeypatch):
  """Pins 60 + 20 random digits instead of MNIST; returns arrays by key."""
  rng = np.random.default_rng(0)
  arrays = {
    'x_train': rng.integers(0, 256, (60, 28, 28), np.uint8),
    'y_train': np.arange(60, dtype=np.uint8) % 10,
    'x_test': rng.integers(0, 256, (20, 28, 28), np.uint8),
    'y_test': np.arange(20, dtype=np.uint8) % 10,
  }
  files = []
  for file in mnist_files.IDX_FILES:
    content = idx.serialize(arrays[file.key])
    digest = store.content_digest(content)
    files.append(file._replace(sha256=digest, size=len(content)))
  monkeypatch.setattr(mnist_files, 'IDX_FILES', tuple(files))
  monkeypatch.setattr(mnist, '_VALID_SIZE', 20)
  return arrays


@pytest.fixture
def idx_folder(small_mnist, tmp_path):
  """A folder with the four small files, compressed."""
  folder = tmp_path / 'given'
  folder.mkdir()
  for file in mnist_files.IDX_FILES:
    content = idx.serialize(small_mnist[file.key])
    (folder / f'{file.name}.gz').write_bytes(gzip.compress(content))
  return folder
