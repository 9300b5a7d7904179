"""The control socket's door."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ray_envd.agent.gate import Gate, bind_unix


@pytest.fixture
async def gate(short_tmp: Path) -> AsyncIterator[Path]:
    """A gate before a server that speaks first, then echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello ")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    inner = short_tmp / "inner"
    server = await asyncio.start_unix_server(echo, inner)
    made = Gate(short_tmp / "public", inner)
    await made.start()
    yield short_tmp / "public"
    await made.stop()
    server.close()


async def test_bytes_pass_both_ways_whoever_speaks_first(gate: Path) -> None:
    """A large message arrives whole, after what the server said before it was asked."""
    for _ in range(50):
        reader, writer = await asyncio.open_unix_connection(gate)
        sent = os.urandom(300_000)
        writer.write(sent)
        writer.write_eof()
        assert await asyncio.wait_for(reader.readexactly(6 + len(sent)), 10) == b"hello " + sent
        writer.close()


async def test_only_the_daemons_user_can_see_the_socket(gate: Path) -> None:
    """The file's mode is the first lock."""
    assert (await asyncio.to_thread(gate.stat)).st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_refused_even_if_the_mode_lets_him_in(gate: Path, short_tmp: Path) -> None:
    """The kernel's word on the peer is the second lock."""

    def connect() -> bytes:
        short_tmp.chmod(0o755)
        gate.chmod(0o666)
        script = (
            "import os, socket, sys; os.setgid(12345); os.setuid(12345);"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'let me in');"
            "sys.stdout.buffer.write(s.recv(100))"
        )
        done = subprocess.run([sys.executable, "-c", script, gate], capture_output=True, check=False)
        return done.stdout

    assert await asyncio.to_thread(connect) == b""


async def test_a_living_daemons_socket_is_not_taken(gate: Path, short_tmp: Path) -> None:
    """A second gate on the same path is refused, and its end leaves the first one's socket alone."""
    second = Gate(gate, short_tmp / "inner")
    with pytest.raises(OSError, match="another daemon listens"):
        await second.start()
    await second.stop()
    _reader, writer = await asyncio.open_unix_connection(gate)
    writer.close()


async def test_a_dead_daemons_socket_is_replaced(short_tmp: Path) -> None:
    """A daemon that was killed leaves its socket behind; the next one takes the path."""

    def leave() -> None:
        bind_unix(short_tmp / "public", 0o600).close()

    await asyncio.to_thread(leave)
    made = Gate(short_tmp / "public", short_tmp / "inner")
    await made.start()
    await made.stop()
    assert not (short_tmp / "public").exists()
