"""Objects of one folder as S3 hands them out, by sendfile(2): nobody waits for it longer than for the kernel.

Run as a process of its own: ``object_server.py FOLDER``. The first line of its stdout is its address; it ends
with its stdin. Buckets are folders. It knows HEAD and GET with a range, asks nobody who he is, and each
connection has a thread. Standard library only.
"""

import contextlib
import os
import re
import sys
import threading
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Objects(BaseHTTPRequestHandler):
    """GET and HEAD of an object."""

    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        """The object, or the part of it that is asked for."""
        try:
            file = (self.folder / self.path.lstrip("/").partition("?")[0]).open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            about = os.fstat(file.fileno())
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            end = min(int(asked[2]) + 1, about.st_size) if asked and asked[2] else about.st_size
            self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{about.st_size}")
            self.send_header("Content-Length", str(end - first))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", f'"{about.st_mtime_ns:x}-{about.st_size:x}"')
            self.send_header("Last-Modified", formatdate(about.st_mtime, usegmt=True))
            self.end_headers()
            if self.command != "HEAD":
                self._send(file.fileno(), first, end)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _send(self, file: int, first: int, end: int) -> None:
        with contextlib.suppress(ConnectionError):
            while first < end:
                first += os.sendfile(self.connection.fileno(), file, first, end - first)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nobody reads it."""


def main() -> None:
    """The command."""
    Objects.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
