"""Runs commands in a container, one after the other, for the daemon at the other end of a socket.

Runs under the *image's* interpreter, 3.9 or later: standard library only, no syntax newer than 3.9, nothing
of this project imported. :mod:`ray_envd.agent.containers.tool_container` passes the source with ``-c``.

One JSON document a line, both ways. In: ``argv``, ``env`` (over the container's own), ``cwd``. Out: ``line``
for each line that the command writes, then ``code`` (negative: the signal that ended it), or ``error`` if it
could not be started. Environments and arguments travel here only: what ``podman run`` is given, every user of
the machine can read. It is the first process of the container, so with it everything in there ends. It ends
when the socket does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

_SOCKET = "tools.sock"
_KILL_AFTER = 0.5  # seconds between SIGTERM and the end of all
_LOOK_EVERY = 0.02
_LONGEST_LINE = 64 * 1024
#: The image's own wishes for uv are for its build, and would undo what the daemon decides.
_NOT_OURS = ("UV_", "VIRTUAL_ENV")


class _Channel:
    def __init__(self, folder: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(folder)  # the path of a socket may have 107 bytes
        self._socket.connect(_SOCKET)
        os.chdir("/")
        self._rest = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> dict[str, Any] | None:
        """The next request; None at the end."""
        while b"\n" not in self._rest:
            chunk = self._socket.recv(65536)
            if not chunk:
                return None
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        request: dict[str, Any] = json.loads(line)
        return request

    def send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")


class _Lines:
    """Cuts output into lines as ``agent/process.py`` does (not importable here), and sends them."""

    def __init__(self, channel: _Channel) -> None:
        self._channel, self._rest = channel, b""

    def feed(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for raw in whole:
            self._send(raw)
        if len(self._rest) > _LONGEST_LINE:
            self.close()

    def close(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._send(rest)

    def _send(self, raw: bytes) -> None:
        self._channel.send(line=raw.decode(errors="replace").rstrip("\r"))


def _serve(channel: _Channel, request: dict[str, Any]) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    try:
        process = subprocess.Popen(
            request["argv"],
            env={**own, **request["env"]},
            cwd=request["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        channel.send(error=error.strerror or str(error))
        return
    assert process.stdout is not None  # noqa: S101 - asked for above
    lines = _Lines(channel)
    with process.stdout as stream:
        _follow(process, stream.fileno(), channel, lines)
        _end_all(process)
        os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(stream.fileno(), 65536):
                lines.feed(chunk)
    lines.close()
    channel.send(code=process.returncode)


def _follow(process: subprocess.Popen[bytes], output: int, channel: _Channel, lines: _Lines) -> None:
    """Until the command has ended. Nothing is said to it meanwhile: what comes on the socket is its end."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    with _exit_of(process) as exit_:
        if exit_ >= 0:
            poll.register(exit_, select.POLLIN)
        while process.poll() is None:
            for descriptor, _ in poll.poll(_LOOK_EVERY * 1000 if exit_ < 0 else None):
                if descriptor == channel.fileno():
                    _hang_up(process)
                elif descriptor == output:
                    if chunk := os.read(output, 65536):
                        lines.feed(chunk)
                    else:
                        poll.unregister(output)


@contextlib.contextmanager
def _exit_of(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """A descriptor that is readable once the process has ended; -1 on a kernel before 5.3."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """The daemon wants no more, or has gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _KILL_AFTER
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
    os._exit(0)


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """What the command has started ends with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # To everybody in the container but this process, which is its first.
        os.kill(-1, signal.SIGKILL) if os.getpid() == 1 else os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0 if os.getpid() == 1 else os.WNOHANG)[0]:
            pass


def _main() -> None:
    # The first process of a container hears no signal for which it has no handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    os.umask(0o077)
    channel = _Channel(sys.argv[1])
    with contextlib.suppress(OSError):
        while (request := channel.receive()) is not None:
            _serve(channel, request)


if __name__ == "__main__":
    _main()
