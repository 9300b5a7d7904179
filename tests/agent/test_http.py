"""The HTTP server: what peers may send, and what they get back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ray_envd.agent.http import HANG_UP, Request, Response
from ray_envd.agent.http_server import HttpServer

Handler = Callable[[Request], Response | Awaitable[Response]]


class Server:
    """A server on loopback with a handler that the test chooses."""

    def __init__(self) -> None:
        self.handler: Handler = lambda request: Response(request.body)
        self.http = HttpServer(self._handle, max_body=1000)
        self.port = 0

    def _handle(self, request: Request) -> Response | Awaitable[Response]:
        return self.handler(request)

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self.http.start(listener)

    async def talk(self, data: bytes, *, half_close: bool = False) -> bytes:
        """Sends bytes and reads until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if half_close:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.http.stop()


def post(body: bytes, *, close: bool = True, extra: bytes = b"") -> bytes:
    connection = b"Connection: close\r\n" if close else b""
    return b"POST /x HTTP/1.1\r\nHost: h\r\n%sContent-Length: %d\r\n%s\r\n%s" % (
        connection,
        len(body),
        extra,
        body,
    )


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_request_is_answered_whole(server: Server) -> None:
    """Body, length and content type are right, and the connection closes when the peer asks for it."""
    answer = await server.talk(post(b"hello"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) == 200
    assert b"Content-Length: 5" in head
    assert b"Connection: close" in head
    assert body == b"hello"


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """A slow first request does not let the second one's answer overtake it."""

    def handler(request: Request) -> Response | Awaitable[Response]:
        if request.body != b"slow":
            return Response(request.body)

        async def later() -> Response:
            await asyncio.sleep(0.05)
            return Response(b"slow")

        return later()

    server.handler = handler
    answer = await server.talk(post(b"slow", close=False) + post(b"fast", close=False) + post(b"last"))
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"slow", b"fast", b"last"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"a" * 2000, 413),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nA: " + b"a" * 70000 + b"\r\n\r\n", 431),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    ],
)
async def test_malformed_and_oversized_requests_get_4xx(server: Server, data: bytes, status: int) -> None:
    """Each is refused with a status of its own and without a traceback; the connection closes."""
    answer = await server.talk(data)
    assert status_of(answer) == status
    assert b"Traceback" not in answer


async def test_a_handlers_bug_is_a_500_without_details(server: Server) -> None:
    """The peer learns nothing of the inside."""

    def handler(_request: Request) -> Response:
        raise RuntimeError("secret inside")

    server.handler = handler
    answer = await server.talk(post(b""))
    assert status_of(answer) == 500
    assert b"secret" not in answer


async def test_hanging_up_sends_nothing(server: Server) -> None:
    """A peer that is to ask again sees its connection dropped."""
    server.handler = lambda _request: HANG_UP
    assert await server.talk(post(b"")) == b""


async def test_a_peer_that_leaves_cancels_its_request(server: Server) -> None:
    """Work for somebody who has gone is ended."""
    cancelled, started = asyncio.Event(), asyncio.Event()

    async def forever() -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Response()

    server.handler = lambda _request: forever()
    _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(b""))
    await asyncio.wait_for(started.wait(), 5)
    writer.close()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_stopping_lets_a_request_end_and_refuses_new_ones(server: Server) -> None:
    """Draining: what is in flight is answered, nobody new is let in."""
    release, started = asyncio.Event(), asyncio.Event()

    async def wait() -> Response:
        started.set()
        await release.wait()
        return Response(b"done")

    server.handler = lambda _request: wait()
    talking = asyncio.create_task(server.talk(post(b"", close=False)))
    await asyncio.wait_for(started.wait(), 5)
    stopping = asyncio.create_task(server.http.stop(deadline=5))
    await asyncio.sleep(0)
    release.set()
    assert (await talking).endswith(b"done")
    await stopping
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_expecting_a_go_ahead_gets_it(server: Server) -> None:
    """Programs such as curl wait for 100 Continue before they send a larger body."""
    answer = await server.talk(post(b"x", extra=b"Expect: 100-continue\r\n"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
