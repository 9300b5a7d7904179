"""The HTTP server's short way for simple requests, and where it hands over to the long one."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from ray_envd.agent.http import Request, Response
from ray_envd.agent.http_server import Heads, HttpServer

MOST_BODY = 1000
Handler = Callable[[Request], Response]


class Server:
    """On loopback; answers with what the test's handler makes of a request."""

    def __init__(self) -> None:
        self.handler: Handler = lambda request: Response(request.body)
        self.http = HttpServer(self._handle, max_body=MOST_BODY)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.http.start(listener)

    def _handle(self, request: Request) -> Response:
        return self.handler(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    await made.http.stop()


def post(body: bytes, path: str = "/x") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def talk(port: int, data: bytes) -> bytes:
    """Sends a request; the one answer to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        return head + await asyncio.wait_for(reader.readexactly(length), 5)
    finally:
        writer.close()


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_the_same_head_again_and_again(server: Server) -> None:
    """Each request gets the answer to its own body."""
    for number in range(5):
        assert body_of(await talk(server.port, post(b"%d" % number))) == b"%d" % number


async def test_a_head_that_is_known_opens_nothing(server: Server) -> None:
    """Whether a request may be answered is asked of the handler each time."""
    assert body_of(await talk(server.port, post(b"a"))) == b"a"
    server.handler = lambda _: Response.text("no", 403)
    assert (await talk(server.port, post(b"a"))).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("cut", [0, 1, 20, 50])
async def test_a_request_that_comes_in_pieces(server: Server, cut: int) -> None:
    """What is not there when the connection is accepted is waited for, whether the head is known or not."""
    for _ in range(2):
        whole = post(b"in pieces")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        if cut:
            writer.write(whole[:cut])
        await asyncio.sleep(0.02)
        writer.write(whole[cut:] + b"GET /end HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert b"in pieces" in answer


async def test_a_large_answer_to_a_slow_reader(server: Server) -> None:
    """What the kernel does not take at once is sent later, whole."""
    large = os.urandom(1 << 24)
    server.handler = lambda _: Response(large)
    assert body_of(await talk(server.port, post(b""))) == large


async def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    """Also where its head has come before."""
    for _ in range(2):
        answer = await talk(server.port, post(b"a" * (MOST_BODY + 1)))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_no_descriptor_left(server: Server) -> None:
    """Connections wait in the backlog until there are descriptors again."""
    loop = asyncio.get_running_loop()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            await loop.sock_sendall(client, post(b"waited"))
            await asyncio.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        answer = await asyncio.wait_for(loop.sock_recv(client, 4096), 5)
    assert body_of(answer) == b"waited"


async def test_stopping_closes_a_connection_that_says_nothing(server: Server) -> None:
    """A peer that only connected does not hold up the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await asyncio.sleep(0.02)
    await asyncio.wait_for(server.http.stop(deadline=5), 4)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhell",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello!",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /x HTTP/1.1\nContent-Length: 8\n\nAAAA\r\n\r\nBBBBBBBB",
        b"GET /x HTTP/1.1\n\nGET /y HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        b"GET /x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: \xb2\r\n\r\nab",
        b"POST /x HTTP/1.1\r\nContent-Length: 2000\r\n\r\n" + b"a" * 2000,
        b"GET /x HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
        b"\r\n\r\n",
        b"hello",
        b"",
    ],
)
def test_what_is_not_simple_is_left_to_the_parser(data: bytes) -> None:
    """Incomplete, ambiguous, pipelined, chunked or malformed: no request is made of it here."""
    heads = Heads(MOST_BODY)
    assert heads.request(data) is None
    assert heads.request(data) is None


def test_a_simple_request_is_read_as_the_parser_reads_it() -> None:
    """Names in lower case, values without the spaces around them, the path without its query."""
    data = b"POST /p?q=1 HTTP/1.1\r\nX-Name:  Value \r\nContent-Length: 2\r\n\r\nab"
    heads = Heads(MOST_BODY)
    for _ in range(2):
        request = heads.request(data)
        assert request is not None
        assert (request.method, request.path, request.body) == ("POST", "/p", b"ab")
        assert request.headers["x-name"] in {"Value", "Value "}
