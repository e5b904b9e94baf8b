"""A web server of a folder on the loopback device that can be made to fail."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class LoopbackServer(ThreadingHTTPServer):
    """`is_down`: requests are answered with 503. `requests` counts those for content by file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.is_down = False
        self.requests: Counter[str] = Counter()
        self.serves_ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        name = self.path.removeprefix("/")
        path = self.server.folder / name
        if body:
            self.server.requests[name] += 1
        if self.server.is_down:
            self._send(503, b"", body=body)
        elif not path.is_file():
            self._send(404, b"", body=body)
        elif (wanted := self.headers.get("Range")) and self.server.serves_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            self._send(206, path.read_bytes()[int(first) : int(last) + 1], body=body)
        else:
            self._send(200, path.read_bytes(), body=body)

    def _send(self, status: int, content: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if self.server.serves_ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[LoopbackServer]:
    server = LoopbackServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
