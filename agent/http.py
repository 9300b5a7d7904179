"""HTTP/1.1 on one connection: httptools parses, a handler answers at once or returns an awaitable.

What a peer sends is bounded in size and time; a peer that leaves cancels its request. Most of the raylet's
requests never come here: ``http_server.py`` answers what is simple.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httptools

_log = logging.getLogger(__name__)
#: Bytes of request line and headers; a bearer token and a few names need far less.
MOST_HEADER_BYTES = 64 * 1024
_STATUS_LINES = {int(each): f"{each.value} {each.phrase}".encode("ascii") for each in HTTPStatus}
_PATIENCE = 30.0  # seconds for a request to arrive whole, and for an idle connection to say something


@dataclass(slots=True)
class Request:
    """A whole request, not to be changed: requests share their headers. Header names are lower case."""

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

    def __init__(
        self, handler: Handler, max_body: int, connections: "set[HttpProtocol]", begin: "Begin"
    ) -> None:
        """``begin`` is called once the connection can be used, and before anything is read from it."""
        self._handler, self._max_body, self._connections = handler, max_body, connections
        self._begin = begin
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
        self._begin(self)

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
        if self._header_bytes > MOST_HEADER_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long")

    def _serve(self, request: Request, keep: bool) -> None:  # noqa: FBT001 - HTTP's own word
        answer = handled(self._handler, request)
        if isinstance(answer, Response):
            self._reply(answer, keep)
        else:
            self.answer(answer, keep=keep)

    def answer(self, answer: Awaitable[Response], *, keep: bool = False) -> None:
        """Replies when the answer is there; what else the peer asks for waits."""
        self._unwatch()
        self.task = asyncio.ensure_future(self._later(answer, keep=keep))

    async def _later(self, answer: Awaitable[Response], *, keep: bool) -> None:
        try:
            response = await answer
        except asyncio.CancelledError:
            response = HANG_UP
        except Exception:  # noqa: BLE001 - logged; the peer gets a 500
            response = _failed()
        self.task = None
        if not self._closed:
            self._reply(response, keep)

    def _reply(self, response: Response, keep: bool) -> None:  # noqa: FBT001 - HTTP's own word
        assert self._transport is not None  # noqa: S101 - set before any data
        keep = keep and not self._last and bool(response.status)
        if response.status:
            self._transport.write(encode(response, keep=keep))
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

    def say_last(self, data: bytes) -> None:
        """Sends what is left of an answer, and closes."""
        assert self._transport is not None  # noqa: S101 - begins with a connection
        self._transport.write(data)
        self._close()

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


#: What a new connection begins with.
Begin = Callable[[HttpProtocol], None]


def handled(handler: Handler, request: Request) -> Response | Awaitable[Response]:
    """The handler's answer; a 500 without details if it fails."""
    try:
        return handler(request)
    except Exception:  # noqa: BLE001 - logged; the peer gets a 500
        return _failed()


def _failed() -> Response:
    _log.exception("a handler failed")
    return Response.text("internal error; see the daemon's log", HTTPStatus.INTERNAL_SERVER_ERROR)


def encode(response: Response, *, keep: bool) -> bytes:
    """An answer as it stands on the wire."""
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: %b\r\n%b\r\n%b" % (
        _STATUS_LINES[response.status],
        response.content_type.encode("latin-1"),
        len(response.body),
        b"keep-alive" if keep else b"close",
        b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in response.headers.items()),
        response.body,
    )
