"""A link's session with the daemon, from the port to the end of the raylet."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed; why not signal: see raylet.py
import _socket
import os
import struct
import sys
import time

from . import FallbackError, plain_json
from .hello import hello_of, sockets
from .raylet import TICK, Log, Watch, listen, parse_flags, redirect, version_of, with_port, write_port_file
from .starter import Starter

SHORT_LIVES = 20  # a daemon that is lost this often, each time at once, is broken
SHORT_LIFE = 1.0  # seconds


class RefusedError(Exception):
    """The daemon is there and does not want this session now."""


def run(argv: list[str], settings_path: str) -> list[str]:
    """Runs in the raylet's child; ends by SystemExit when the raylet ends.

    Args:
        argv: the raylet's words.
        settings_path: what ``attach`` wrote.

    Returns:
        the words for Ray's stock agent, which has to take over in this process; the log says why.
    """
    flags = parse_flags(argv)
    for number in (_signal.SIGTERM, _signal.SIGINT):
        _signal.signal(number, lambda *_: sys.exit(0))
    log = Log(flags)
    link = None
    try:
        redirect(flags)
        with open(settings_path, encoding="utf-8") as file:
            settings = plain_json.loads(file.read())
        link = Link(flags, settings, log)
        link.run()
    except FallbackError as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, a node must not be worse off than without us
        why = f"{type(error).__name__}: {error}"
    log.line("WARNING", f"this node runs on Ray's stock runtime-env agent, not on ray-envd: {why}")
    if link is None:
        return argv
    try:
        link.give_up_port()
    except OSError as error:
        log.line("INFO", f"port {link.port} is not reserved: {error}")
    return with_port(argv, link.port)


class Link:
    """From the port to the end of the raylet."""

    def __init__(self, flags: dict[str, str], settings: dict[str, object], log: Log) -> None:
        self._log, self._settings = log, settings
        ray_version = str(settings.get("ray_version") or "")
        self._listener = listen(flags, version_of(ray_version))
        self.port: int = self._listener.getsockname()[1]
        write_port_file(flags, self.port)
        self._watch = Watch(log)
        self._hello = plain_json.dumps(hello_of(flags, ray_version, self._watch.raylet, self.port)).encode()
        self._sockets = sockets(settings)
        argv = settings.get("daemon")
        self._starter = Starter(argv if isinstance(argv, list) else None, self._sockets[-1], log)

    def run(self) -> None:
        """Says hello, watches, and says hello again; ends by SystemExit when the raylet ends.

        Raises:
            FallbackError: there is no daemon to be had.
        """
        seconds = float(str(self._settings.get("start_seconds") or 10))
        short_lives = 0
        while True:
            connection = self._attach(seconds)
            begun = time.monotonic()
            while not self._watch.wait(TICK, connection.fileno()):
                self._starter.reap()
            connection.close()
            short_lives = short_lives + 1 if time.monotonic() - begun < SHORT_LIFE else 0
            if short_lives >= SHORT_LIVES:
                raise FallbackError(f"the daemon was lost {SHORT_LIVES} times, each time at once")
            self._log.line("INFO", "the daemon is gone; the port stays bound, looking for the next one")
            self._starter.forgive()
            seconds = float(str(self._settings.get("restart_seconds") or 20))

    def _attach(self, seconds: float) -> _socket.socket:
        deadline = time.monotonic() + seconds
        pause = 0.02
        while True:
            connection, why = self._try_all(deadline)
            if connection is not None:
                return connection
            if time.monotonic() >= deadline:
                raise FallbackError(f"no daemon within {seconds:g} s: {why}{self._starter.last_words()}")
            self._watch.wait(pause)
            pause = min(pause * 1.2, 0.05)

    def _try_all(self, deadline: float) -> tuple[_socket.socket | None, str]:
        """Says hello on the first socket where somebody listens; otherwise says why nobody does."""
        why = ""
        for path in self._sockets:
            try:
                return self._greet(path, deadline), ""
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                why = f"{path}: {error.strerror}"
            except RefusedError as error:
                self._watch.wait(0.2)
                return None, f"{path}: {error}"
            except OSError as error:
                return None, f"{path}: {error.strerror or error}"
        try:
            self._starter.ensure()
        except FallbackError as error:
            raise FallbackError(f"{error}{self._starter.last_words()}") from error
        return None, why

    def _greet(self, path: str, deadline: float) -> _socket.socket:
        """One hello.

        Raises:
            OSError: nobody there, or it went away in between.
            RefusedError: not now.
            FallbackError: not at all.
        """
        connection = _socket.socket(_socket.AF_UNIX)
        try:
            connection.settimeout(5.0)
            connection.connect(path)
            check_peer(connection, path)
            send_listener(connection, struct.pack(">I", len(self._hello)), self._listener.fileno())
            connection.sendall(self._hello)
            answer = self._answer(connection, deadline)
        except BaseException:
            connection.close()
            raise
        self._log.line("INFO", f"port {self.port} is served by ray-envd {answer.get('version')}, {path}")
        return connection

    def _answer(self, connection: _socket.socket, deadline: float) -> dict[str, object]:
        line = b""
        while not line.endswith(b"\n"):
            while not self._watch.wait(deadline - time.monotonic(), connection.fileno()):
                self._starter.reap()
                if time.monotonic() >= deadline:
                    raise RefusedError("the daemon does not answer")
            part = connection.recv(4096)
            if not part:
                raise RefusedError("the daemon hung up")
            line += part
        try:
            answer = plain_json.loads(line.decode())
        except ValueError as error:
            raise RefusedError("the daemon's answer is not a JSON object") from error
        if not answer.get("ok"):
            kind = FallbackError if answer.get("fallback") else RefusedError
            raise kind(f"the daemon refused this raylet: {answer.get('error')}")
        return answer

    def give_up_port(self) -> None:
        """Stops listening but keeps the port's number for whoever is executed in this process's place.

        A socket that is bound and does not listen is in nobody's way who binds with SO_REUSEADDR too, as
        stock does, but a port that is picked at random is never that one.
        """
        family, address = self._listener.family, self._listener.getsockname()
        # Not close() alone: a daemon that hangs may hold the socket too, and would keep the port.
        self._listener.shutdown(_socket.SHUT_RDWR)
        self._listener.close()
        placeholder = _socket.socket(family, _socket.SOCK_STREAM)
        placeholder.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        placeholder.bind(address)
        os.set_inheritable(placeholder.detach(), True)


def send_listener(connection: _socket.socket, head: bytes, listener: int) -> None:
    """Sends the first bytes together with the listening socket (SCM_RIGHTS, unix(7))."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener))
    connection.sendmsg([head], [rights])


def check_peer(connection: _socket.socket, path: str) -> None:
    """The hello holds the cluster's token: only root and this very user may hear it.

    Raises:
        FallbackError: somebody else listens.
    """
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size))
    if uid not in (0, os.geteuid()):
        raise FallbackError(f"{path} belongs to uid {uid}, neither root nor this user")
