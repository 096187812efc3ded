"""Downloads from a server that misbehaves: what arrives wrong is not kept, and the message says what to do by hand."""

import contextlib
import hashlib
import http.server
import threading

import pytest

from mebm import download
from mebm.download import RemoteFile, obtain
from mebm.errors import DataError

CONTENT = bytes(range(256)) * 400
CHECKSUM = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path: /good, /truncated, /html, /missing, /slow, /endless."""

    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # the other side has had enough
                while not self.server.stop.is_set():
                    self.wfile.write(CONTENT)
            return
        body = b"<!DOCTYPE html><title>please log in</title>" if self.path.startswith("/html") else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.startswith("/truncated"):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if self.path.startswith("/slow"):
            self.wfile.write(body[:1000])
            self.wfile.flush()
            self.server.stop.wait(5)
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.stop = threading.Event()
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.stop.set()
        running.shutdown()


def test_a_good_file_is_downloaded_once(server, tmp_path):
    Handler.requests.clear()
    file = RemoteFile("set.bin", f"{server}/good", CHECKSUM)
    for _ in range(2):
        assert obtain(file, tmp_path / "downloads").read_bytes() == CONTENT
    assert Handler.requests == ["/good"]
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["set.bin"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/truncated", "could not be downloaded"),
        ("/html", "it is a web page, not the file, so it was not kept"),
        ("/missing", "404"),
        ("/slow", "could not be downloaded"),
        ("/endless", "has sent more than the 1000000 bytes that are taken, so it was not kept"),
    ],
)
def test_what_arrives_wrong_is_not_kept(server, tmp_path, monkeypatch, path, message):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setattr(download, "LARGEST", 10**6)
    file = RemoteFile("set.bin", f"{server}{path}", CHECKSUM)
    with pytest.raises(DataError) as error:
        obtain(file, tmp_path)
    text = str(error.value)
    assert message in text
    assert file.url in text
    assert f"at {tmp_path / 'set.bin'} by hand" in text
    assert list(tmp_path.iterdir()) == []
    # placed by hand it is accepted, and nothing is asked of the server
    (tmp_path / "set.bin").write_bytes(CONTENT)
    Handler.requests.clear()
    assert obtain(file, tmp_path) == tmp_path / "set.bin"
    assert Handler.requests == []


def test_no_network(tmp_path):
    file = RemoteFile("set.bin", "http://127.0.0.1:9/set.bin", CHECKSUM)  # nothing listens there
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/set\.bin: could not be downloaded") as error:
        obtain(file, tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_file_placed_by_hand_is_refused_but_not_deleted(tmp_path):
    (tmp_path / "set.bin").write_bytes(b"something else")
    file = RemoteFile("set.bin", "http://127.0.0.1:9/set.bin", CHECKSUM)
    with pytest.raises(DataError, match=r"set\.bin: has md5 .* expected .*delete it or put the right one there"):
        obtain(file, tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == b"something else"


def test_a_file_without_a_checksum_is_not_downloaded(tmp_path):
    with pytest.raises(DataError, match="no published checksum"):
        obtain(RemoteFile("set.bin", "http://127.0.0.1:9/set.bin"), tmp_path)
