"""A small HTTP/1.1 server on a listening socket: httptools parses, we route and answer.

Made for the raylet's calls: short requests, most of them on a connection of their own, thousands a second.
A handler may answer at once (no task is made) or return an awaitable. What a peer sends is bounded in
size and time; a peer that leaves cancels its request.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httptools

_log = logging.getLogger(__name__)
#: Bytes of request line and headers; a bearer token and a few names need far less.
_MOST_HEADER_BYTES = 64 * 1024
_BACKLOG = 1024
_PATIENCE = 30.0  # seconds for a request to arrive whole, and for an idle connection to say something


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; a status of 0 means: close without one, so that the peer tries again."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, text: str, status: int = 200) -> "Response":
        """An answer for people."""
        return cls(text.encode(), status, "text/plain; charset=utf-8")


HANG_UP = Response(status=0)
Handler = Callable[[Request], Response | Awaitable[Response]]


class HttpProtocol(asyncio.Protocol):
    """One connection. Pipelined requests are answered one after the other, in order."""

    def __init__(self, handler: Handler, max_body: int, connections: "set[HttpProtocol]") -> None:
        self._handler, self._max_body, self._connections = handler, max_body, connections
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self.task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[Request, bool]] = []
        self._last = False  # the answer to the request under way is the last one
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.task is not None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._watch()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The peer has gone: whoever works for it stops."""
        self._connections.discard(self)
        self._unwatch()
        self._closed = True
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(HTTPStatus.BAD_REQUEST, "no upgrade is offered")
        except _RefusedError as refused:
            self._refuse(refused.status, refused.reason)
        except httptools.HttpParserError as error:
            # An exception of our own callbacks arrives as the parser's context.
            cause = error.__context__
            if isinstance(cause, _RefusedError):
                self._refuse(cause.status, cause.reason)
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1")

    # httptools callbacks

    def on_url(self, url: bytes) -> None:
        """Part of the request target."""
        self._count(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Refuses what announces itself as too long, before it is sent."""
        length = self._headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {self._max_body} bytes")
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {self._max_body} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        path = self._url.partition(b"?")[0].decode("latin-1")
        method = self._parser.get_method().decode("ascii")
        request = Request(method, path, self._headers, b"".join(self._body))
        keep = self._parser.should_keep_alive()
        self._reset()
        self._unwatch()
        if self.busy or self._waiting:
            self._waiting.append((request, keep))
        else:
            self._serve(request, keep)

    # ours

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long")

    def _serve(self, request: Request, keep: bool) -> None:  # noqa: FBT001 - HTTP's own word
        try:
            answer = self._handler(request)
        except Exception:  # noqa: BLE001 - logged; the peer gets a 500
            _log.exception("a handler failed")
            answer = Response.text("internal error; see the daemon's log", HTTPStatus.INTERNAL_SERVER_ERROR)
        if isinstance(answer, Response):
            self._reply(answer, keep)
        else:
            self.task = asyncio.ensure_future(self._later(answer, keep))

    async def _later(self, answer: Awaitable[Response], keep: bool) -> None:  # noqa: FBT001
        try:
            response = await answer
        except asyncio.CancelledError:
            response = HANG_UP
        except Exception:  # noqa: BLE001 - logged; the peer gets a 500
            _log.exception("a handler failed")
            response = Response.text("internal error; see the daemon's log", HTTPStatus.INTERNAL_SERVER_ERROR)
        self.task = None
        if not self._closed:
            self._reply(response, keep)

    def _reply(self, response: Response, keep: bool) -> None:  # noqa: FBT001 - HTTP's own word
        assert self._transport is not None  # noqa: S101 - set before any data
        keep = keep and not self._last and bool(response.status)
        if response.status:
            self._transport.write(_encode(response, keep))
        if not keep:
            self._close()
        elif self._waiting:
            self._serve(*self._waiting.pop(0))
        else:
            self._watch()

    def _refuse(self, status: int, reason: str) -> None:
        self._last = True
        if not self.busy and not self._closed:
            self._reply(Response.text(reason + "\n", status), keep=False)

    def finish(self) -> None:
        """Closes once the request under way, if any, is answered."""
        self._last = True
        if not self.busy:
            self._close()

    def abort(self) -> None:
        """Closes now; a request under way is cancelled and stays unanswered."""
        if self.task is not None:
            self.task.cancel()
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._waiting.clear()
        if self._transport is not None:
            self._transport.close()

    def _watch(self) -> None:
        self._unwatch()
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._too_slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self.busy:
            self._close()


class _RefusedError(Exception):
    """A request that is answered with a status of its own before it is whole."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _encode(response: Response, keep: bool) -> bytes:  # noqa: FBT001
    status = HTTPStatus(response.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        f"Connection: {'keep-alive' if keep else 'close'}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + response.body


class HttpServer:
    """Serves a listening socket until it is told to stop."""

    def __init__(self, handler: Handler, *, max_body: int) -> None:
        self._handler, self._max_body = handler, max_body
        self._connections: set[HttpProtocol] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Takes over a socket that is bound and listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=listener, backlog=_BACKLOG)

    def _protocol(self) -> HttpProtocol:
        return HttpProtocol(self._handler, self._max_body, self._connections)

    async def stop(self, deadline: float = 0.0) -> None:
        """Accepts no more, lets requests under way end for so many seconds, then closes what is left.

        Closing our copy of a listening socket that another process holds too leaves the port bound:
        new connections wait there for whoever serves it next.
        """
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.finish()
        tasks = {c.task for c in self._connections if c.task is not None}
        if tasks and deadline > 0:
            await asyncio.wait(tasks, timeout=deadline)
        for connection in tuple(self._connections):
            connection.abort()
