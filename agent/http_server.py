"""A small HTTP/1.1 server on a listening socket.

Made for the raylet's calls: short requests, each on a connection of its own, thousands a second, most of them
alike. Such a request has come whole by the time its connection is accepted. So it is read, answered and the
connection closed there and then: no transport, task or timer is made for it, and a head that has come before,
byte by byte the same, is not parsed again. Everything else (what is incomplete, malformed, too large,
pipelined or answered later) is :class:`HttpProtocol`'s.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

import httptools

from ray_envd.agent.http import (
    MOST_HEADER_BYTES,
    Begin,
    Handler,
    HttpProtocol,
    Request,
    Response,
    encode,
    handled,
)

_log = logging.getLogger(__name__)
_BACKLOG = 1024
_AT_ONCE = 64  # connections, before others have their turn on the event loop
_READ = 64 * 1024
_MOST_HEADS, _MOST_HEAD_BYTES = 64, 4096
_PAUSE = 1.0  # seconds without accepting, when no descriptor is left


@dataclass(slots=True)
class _Head:
    """A request line and headers; ``length`` is the body's."""

    method: str
    path: str
    headers: dict[str, str]
    length: int


class Heads:
    """What requests begin with, by their very bytes: how to read it is remembered, not who may ask."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._known: dict[bytes, _Head] = {}

    def request(self, data: bytes) -> Request | None:
        """The request, if the data are one, whole and simple, and nothing else."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._known.get(data[:end]) or self._read(data[:end])
        if head is None or len(data) != end + head.length:
            return None
        return Request(head.method, head.path, head.headers, data[end:])

    def _read(self, head: bytes) -> _Head | None:
        if len(head) > MOST_HEADER_BYTES:
            return None
        found = _Reading()
        parser = httptools.HttpRequestParser(found)
        try:
            parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        length = found.headers.get("content-length", "0")
        if not found.whole or not _is_simple(found.headers) or not length.isdecimal():
            return None
        if int(length) > self._max_body:
            return None
        path = found.url.partition(b"?")[0].decode("latin-1")
        read = _Head(parser.get_method().decode("ascii"), path, found.headers, int(length))
        if len(head) <= _MOST_HEAD_BYTES:
            if len(self._known) >= _MOST_HEADS:
                self._known.clear()
            self._known[head] = read
        return read


def _is_simple(headers: dict[str, str]) -> bool:
    return not headers.keys() & {"transfer-encoding", "expect", "upgrade"}


class _Reading:
    """Hears what httptools reads."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self._heads = self._bodies = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._heads += 1

    def on_body(self, _body: bytes) -> None:
        self._bodies += 1

    @property
    def whole(self) -> bool:
        """Whether this was one head and nothing else, in the parser's eyes too."""
        return self._heads == 1 and not self._bodies


class HttpServer:
    """Serves a listening socket until it is told to stop."""

    def __init__(self, handler: Handler, *, max_body: int) -> None:
        self._handler, self._max_body = handler, max_body
        self._heads = Heads(max_body)
        self._connections: set[HttpProtocol] = set()
        self._adopting: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._resuming: asyncio.TimerHandle | None = None

    def start(self, listener: socket.socket) -> None:
        """Takes over a socket that is bound; on the event loop."""
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._resume(listener)

    def _resume(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        silent = []
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:
                self._pause(listener, error)
                break
            connection.setblocking(False)
            if not self._serve(connection):
                silent.append(connection)
        for connection in silent:
            # The request was on its way while the connection was accepted; by now it is there, or takes time.
            if not self._serve(connection):
                self._adopt(connection, lambda _: None)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Out of descriptors, say. That passes; connections wait in the backlog."""
        _log.warning("cannot accept a connection: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._resuming = loop.call_later(_PAUSE, self._resume, listener)

    def _serve(self, connection: socket.socket) -> bool:
        """Answers what a new connection says; False if it has said nothing yet."""
        try:
            data = connection.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            connection.close()
        elif (request := self._heads.request(data)) is None:
            self._adopt(connection, lambda protocol: protocol.data_received(data))
        else:
            answer = handled(self._handler, request)
            if isinstance(answer, Response):
                self._send(connection, answer)
            else:
                self._adopt(connection, lambda protocol: protocol.answer(answer))
        return True

    def _send(self, connection: socket.socket, response: Response) -> None:
        """The one answer on a connection, and its end."""
        left = encode(response, keep=False) if response.status else b""
        try:
            left = left[connection.send(left) :] if left else left
        except BlockingIOError:
            pass
        except OSError:  # it has gone
            left = b""
        if left:
            self._adopt(connection, lambda protocol: protocol.say_last(left))
        else:
            connection.close()

    def _adopt(self, connection: socket.socket, begin: Begin) -> None:
        """Makes a connection the event loop's."""
        task = asyncio.ensure_future(self._connect(connection, begin))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _connect(self, connection: socket.socket, begin: Begin) -> None:
        make: Callable[[], HttpProtocol] = lambda: HttpProtocol(  # noqa: E731 - its type says what it makes
            self._handler, self._max_body, self._connections, begin
        )
        try:
            await asyncio.get_running_loop().connect_accepted_socket(make, connection)
        except OSError as error:
            _log.info("a connection was lost as it began: %s", error)
            connection.close()

    async def stop(self, deadline: float = 0.0) -> None:
        """Accepts no more, lets requests under way end for so many seconds, then closes what is left.

        Closing our copy of a listening socket that another process holds too leaves the port bound:
        new connections wait there for whoever serves it next.
        """
        if self._listener is not None:
            if self._resuming is not None:
                self._resuming.cancel()
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self._adopting:
            await asyncio.wait(self._adopting)
        for connection in tuple(self._connections):
            connection.finish()
        tasks = {c.task for c in self._connections if c.task is not None}
        if tasks and deadline > 0:
            await asyncio.wait(tasks, timeout=deadline)
        for connection in tuple(self._connections):
            connection.abort()
