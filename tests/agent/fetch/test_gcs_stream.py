"""gcs:// as it arrives: what the frames of an answer are read for, and what is left to gRPC's library."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fetch_servers import FIELD, MakeContext, ServeGcs, content, mode, names

from ray_envd.agent.fetch import GcsEndpoint, fetch, gcs
from ray_envd.agent.fetch.gcs_stream import OddAnswerError, ValueStream

URI = "gcs://_ray_pkg_0123456789abcdef.zip"
VALUE = bytes(range(256)) * (5 << 12)  # 5 MiB, several pieces


class Proxy:
    """Passes connections on, and cuts the first one after so many bytes of the answer."""

    def __init__(self, address: str, cut_after: int) -> None:
        self._address, self._cut_after = address, cut_after
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                self.connections += 1
                most = self._cut_after if self.connections == 1 else 1 << 40
                host, _, port = self._address.rpartition(":")
                server = socket.create_connection((host, int(port)))
                threading.Thread(target=_pass_on, args=(caller, server, 1 << 40), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, caller, most), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, most: int) -> None:
    with contextlib.suppress(OSError):
        while most > 0 and (data := source.recv(min(most, 65536))):
            target.sendall(data)
            most -= len(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks gRPC's library fails."""

    async def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError("gRPC's library was asked")

    monkeypatch.setattr(gcs, "get", refuse)


@pytest.mark.usefixtures("no_library")
async def test_a_value_is_written_as_it_comes(
    serve_gcs: ServeGcs, make_context: MakeContext, target: Path
) -> None:
    """Whole, the owner's alone, and its size is told before anything is written."""
    store = serve_gcs()
    store.values[URI.encode()], store.token = VALUE, "t" * 1000
    told: list[tuple[int, int]] = []
    secured: list[tuple[int, list[str]]] = []

    async def secure(size: int) -> None:
        secured.append((size, await asyncio.to_thread(names, target.parent)))

    context = make_context(gcs=GcsEndpoint(store.address, store.token))
    done = await fetch(
        URI, target, context, field=FIELD, report=lambda *each: told.append(each), secure=secure
    )
    assert content(target) == VALUE
    assert mode(target) == 0o600
    assert done.bytes == len(VALUE)
    assert secured == [(len(VALUE), [])]
    assert told[0] == (0, len(VALUE))


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("size", [1, 127, 128, 16383, 1 << 20, (1 << 20) + 1])
async def test_every_size_is_whole(
    size: int, serve_gcs: ServeGcs, make_context: MakeContext, target: Path
) -> None:
    """Also where its number takes a byte more, or a piece ends with it."""
    store = serve_gcs()
    store.values[URI.encode()] = VALUE[:size]
    done = await fetch(URI, target, make_context(gcs=GcsEndpoint(store.address)), field=FIELD)
    assert content(target) == VALUE[:size]
    assert done.bytes == size


@pytest.mark.parametrize("after", [100, 1 << 20])
async def test_what_broke_off_is_asked_for_again(
    after: int, serve_gcs: ServeGcs, make_context: MakeContext, target: Path
) -> None:
    """Before the value or within it: by the library then, and no part of the first attempt is left."""
    store = serve_gcs()
    store.values[URI.encode()] = VALUE
    proxy = Proxy(store.address, after)
    try:
        await fetch(URI, target, make_context(gcs=GcsEndpoint(proxy.address)), field=FIELD)
        assert content(target) == VALUE
        assert proxy.connections == 2
    finally:
        proxy.close()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def test_a_cancelled_wait_ends_at_once(
    silent: socket.socket, make_context: MakeContext, target: Path
) -> None:
    """The connection is gone, and there is no file."""
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    task = asyncio.create_task(fetch(URI, target, make_context(gcs=GcsEndpoint(address)), field=FIELD))
    caller, _ = await asyncio.to_thread(silent.accept)
    with caller:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The request, then the end of the connection.
        while await asyncio.to_thread(caller.recv, 65536):
            pass
    assert names(target.parent) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x08\x00\x08\x00\x00\x00\x01\x02\x00\x00\x00\x00\x03\x12\x01",  # padded
        b"\x00\x00\x05\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x03",  # compressed
        b"\x00\x00\x0a\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x05\x12\x01v\x18\x01",  # something follows
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",  # reset
        b"\x00\x00\x00\x01\x05\x00\x00\x00\x01",  # headers that end the stream
        b"\x00\x00\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02\x0a\x00",  # a status and no value
        b"",
    ],
)
async def test_what_is_no_plain_value_is_left_to_the_library(answer: bytes, silent: socket.socket) -> None:
    """Whatever it is, it is not taken for a package."""
    stream = ValueStream(URI, GcsEndpoint(f"127.0.0.1:{silent.getsockname()[1]}"))
    opening = asyncio.create_task(asyncio.to_thread(stream.open))
    caller, _ = await asyncio.to_thread(silent.accept)
    with caller, contextlib.closing(stream):
        caller.sendall(answer)
        caller.shutdown(socket.SHUT_WR)
        with pytest.raises(OddAnswerError):
            await opening
