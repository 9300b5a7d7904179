"""The raylet's side of a link: its words, its log, the port it was promised, and the end of its life."""

from __future__ import annotations

# What socket and signal are made of: they load enum, which is half a MiB, to give their numbers names.
import _socket
import os
import select
import sys
import time

BACKLOG = 1024
TICK = 1.0  # seconds between looks at the parent and at a daemon that this link started


def parse_flags(argv: list[str]) -> dict[str, str]:
    """``--a b`` and ``--a=b``; whatever it does not know is kept and does no harm."""
    flags: dict[str, str] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value
        elif name:
            flags[name] = word
            name = ""
    return flags


def with_port(argv: list[str], port: int) -> list[str]:
    """The raylet's words again, with the port that is bound already."""
    name = "--runtime-env-agent-port"
    kept, skip = [], False
    for word in argv:
        if not skip and word.partition("=")[0] != name:
            kept.append(word)
        skip = not skip and word == name
    return [*kept, f"{name}={port}"]


def version_of(text: object) -> tuple[int, int]:
    """Major and minor; what cannot be read counts as newer than all that is known."""
    parts = str(text).split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return (9999, 0)


def listen(flags: dict[str, str], version: tuple[int, int]) -> _socket.socket:
    """Binds and listens where the stock agent of that version does.

    Raises:
        OSError: as it would there.
    """
    host = flags.get("node-ip-address") or "127.0.0.1"
    if version < (2, 50):
        host = "127.0.0.1" if host == "127.0.0.1" else "0.0.0.0"  # noqa: S104 - stock's own rule
    port = int(flags.get("runtime-env-agent-port") or 0)
    # bytes: for text, Python loads its IDNA tables first, which takes longer than all the rest.
    family, kind, protocol, _, address = _socket.getaddrinfo(host.encode(), port, type=_socket.SOCK_STREAM)[0]
    listener = _socket.socket(family, kind, protocol)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


def write_port_file(flags: dict[str, str], port: int) -> None:
    """Tells the raylet the port; Ray before 2.54 has no such file, and names no node."""
    node, session_dir = flags.get("node-id"), flags.get("session-dir")
    if not node or not session_dir:
        return
    path = os.path.join(session_dir, f"runtime_env_agent_port_{node}")
    aside = f"{path}.{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        file.write(str(port))
    os.replace(aside, path)


def redirect(flags: dict[str, str]) -> None:
    """Sends stdout and stderr to the files that the raylet names."""
    for name, descriptor in (("stdout-filepath", 1), ("stderr-filepath", 2)):
        if flags.get(name):
            file = os.open(flags[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, descriptor)
            os.close(file)


class Log:
    """The agent's log file of this session, or stderr where Ray logs there."""

    def __init__(self, flags: dict[str, str]) -> None:
        name = flags.get("logging-filename", "runtime_env_agent.log")
        folder = flags.get("log-dir")
        self._path = os.path.join(folder, name) if folder and name else None

    def line(self, level: str, message: str) -> None:
        """Writes a line; a log that cannot be written is no reason to fail."""
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now * 1000) % 1000:03d}"
        text = f"{stamp}\t{level} ray-envd link[{os.getpid()}] -- {message}\n"
        if self._path is None or level == "WARNING":
            self._write(2, text)
        if self._path is None:
            return
        try:
            # Opened for each of the few lines, so that a rotated file is let go.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:
            return
        self._write(file, text)
        os.close(file)

    @staticmethod
    def _write(file: int, text: str) -> None:
        try:
            os.write(file, text.encode(errors="replace"))
        except OSError:
            return


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks after boot (proc(5), field 22); 0 if it cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


class Watch:
    """Waits, and ends this process as soon as the raylet has gone."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._parent = os.getppid()
        self.raylet = int(os.environ.get("RAY_RAYLET_PID") or self._parent)
        self._pidfd = self._open()
        by_pipe = os.environ.get("RAY_enable_pipe_based_agent_to_parent_health_check", "")  # noqa: SIM112 - Ray's name
        self._stdin = 0 if by_pipe.lower() in ("1", "true") else -1

    def _open(self) -> int:
        try:
            return os.pidfd_open(self.raylet)
        except ProcessLookupError:
            self._gone("it was gone before this link began")
        except (AttributeError, OSError):  # a Python or a kernel without it: the parent tells
            pass
        return -1

    def _gone(self, how: str) -> None:
        self._log.line("INFO", f"the raylet (pid {self.raylet}) has ended: {how}")
        sys.exit(0)

    def wait(self, seconds: float, descriptor: int = -1) -> bool:
        """Waits until the descriptor is readable (True) or at most so many seconds, in ticks (False)."""
        poll = select.poll()
        for one in {self._pidfd, self._stdin, descriptor} - {-1}:
            poll.register(one, select.POLLIN)
        ready = {one for one, _ in poll.poll(max(0.0, min(seconds, TICK)) * 1000)}
        if self._pidfd in ready:
            self._gone("its process is no more")
        if self._stdin in ready and not os.read(self._stdin, 4096):
            self._gone("it closed our stdin")
        if os.getppid() != self._parent:
            self._gone("we have another parent")
        return descriptor in ready
