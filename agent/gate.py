"""The door of the gRPC socket: who connects is asked of the kernel before a byte is read.

grpcio shows no peer credentials, so the public socket is ours: a connection whose peer is neither the
daemon's own user nor root is closed, any other is passed, byte by byte, to gRPC's own socket in a folder that
nobody else can enter.
"""

import asyncio
import errno
import logging
import os
import socket
from pathlib import Path
from typing import cast

from ray_envd.agent.hello import peer_owner

_log = logging.getLogger(__name__)
_HIGH_WATER = 1 << 20


class _Side(asyncio.Protocol):
    """One end of a passed connection: what arrives here leaves at the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._early: list[bytes] = []
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER)

    def join(self, other: "_Side") -> None:
        """Passes on what came early and everything from now on."""
        self.other = other
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)
        if self.ended:
            self.eof_received()

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """One direction is over; the connection is when both are."""
        self.ended = True
        if self.other is not None and self.other.transport is not None:
            if self.other.ended:
                return False
            self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        """The peer of this end is slow: the other end reads no more."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Front(_Side):
    """The public end: lets in whom the kernel vouches for."""

    def __init__(self, inner: str, tasks: set["asyncio.Task[None]"]) -> None:
        super().__init__()
        self._inner, self._tasks = inner, tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = peer_owner(transport.get_extra_info("socket"))
        if peer.uid not in {0, os.geteuid()}:
            _log.warning("refused a connection of uid %d to the control socket", peer.uid)
            transport.close()
            return
        task = asyncio.ensure_future(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        assert self.transport is not None  # noqa: S101 - connection_made has set it
        try:
            _, back = await asyncio.get_running_loop().create_unix_connection(_Side, self._inner)
        except OSError as error:
            _log.warning("gRPC does not answer on its socket: %s", error)
            self.transport.close()
            return
        # Each end may have heard something already: gRPC's server speaks first.
        self.join(back)
        back.join(self)
        if self.transport.is_closing() and back.transport is not None:
            back.transport.close()


class Gate:
    """Listens on the public path; mode 0600."""

    def __init__(self, path: Path, inner: Path) -> None:
        self._path, self._inner = path, inner
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Binds the path; a stale socket of a dead daemon is replaced."""
        listener = await asyncio.to_thread(bind_unix, self._path, 0o600)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Front(str(self._inner), self._tasks), sock=listener
        )

    async def stop(self) -> None:
        """Accepts no more and takes the path away; connections end with gRPC's server."""
        if self._server is not None:
            self._server.close()
            await asyncio.to_thread(self._path.unlink, missing_ok=True)


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A listening Unix socket at a path that only appears with its final mode; blocking.

    A socket that nobody listens on any more is replaced.

    Raises:
        OSError: EADDRINUSE where somebody answers there: a daemon on another store.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        if probe.connect_ex(str(path)) in {0, errno.EAGAIN}:
            raise OSError(errno.EADDRINUSE, "another daemon listens there", str(path))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if mode & 0o077 else 0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    listener.bind(str(aside))
    aside.chmod(mode)
    listener.listen(512)
    aside.replace(path)
    return listener
