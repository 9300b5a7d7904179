"""Starts a daemon where nobody supervises one."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed; why not signal: see raylet.py
import errno
import os
import stat
import time

from . import FallbackError
from .raylet import Log

EXIT_LOCKED = 5  # a daemon's word for "another one has the store"
STARTS = 3  # a daemon that ends this often at its start is broken
START_LOG_BYTES = 1 << 20
#: Of the raylet's environment a daemon gets only this, and RAY_ENVD_*: it serves other clusters too.
DAEMON_VARIABLES = (
    "HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


class Starter:
    """Starts a daemon where nobody supervises one.

    It is a child of the link in a session of its own, on purpose not forked twice: where the raylet is a
    subreaper, an orphan would become its child, and it kills children that it does not know.
    """

    def __init__(self, argv: list[str] | None, socket_path: str, log: Log) -> None:
        self._argv, self._log = argv, log
        self._control = socket_path.removesuffix(".link")
        self._folder = self._control + ".start"
        self._file = os.path.join(self._folder, "daemon.log")
        self._pid = self._failures = 0
        self._offset = -1
        self._not_before = 0.0
        self._end = ""

    def ensure(self) -> None:
        """Called whenever nobody listens.

        Raises:
            FallbackError: the daemon cannot be started, or ends each time it is.
        """
        self.reap()
        if self._argv is None or self._pid or time.monotonic() < self._not_before:
            return
        if self._failures >= STARTS:
            raise FallbackError(f"the daemon was started {STARTS} times and ended each time ({self._end})")
        if not os.access(self._argv[0], os.X_OK):
            raise FallbackError(f"no daemon listens, and {self._argv[0]} cannot be run: attach again")
        try:
            self._pid = self._start(self._argv)
        except OSError as error:
            raise FallbackError(f"a daemon cannot be started: {error}") from error
        self._log.line("INFO", f"started a daemon, pid {self._pid}: its words are in {self._file}")

    def reap(self) -> None:
        """Takes note of the end of a daemon that this link started."""
        if not self._pid:
            return
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        self._end = f"exit code {code}" if code >= 0 else f"signal {-code}"
        self._pid = 0
        # One that somebody killed may be as sound as one that another was ahead of.
        killed = code in (-_signal.SIGKILL, -_signal.SIGTERM)
        self._not_before = time.monotonic() + (0.1 if killed else 1.0)
        if not killed and code != EXIT_LOCKED:
            self._failures += 1

    def forgive(self) -> None:
        """A daemon has served: what was before does not count."""
        self.reap()
        self._failures, self._not_before, self._offset = 0, 0.0, -1

    def last_words(self) -> str:
        """The last lines that a daemon of ours wrote, indented; empty where there are none."""
        if self._offset < 0:
            return ""
        try:
            with open(self._file, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._offset, size - 8192))
                lines = file.read().decode(errors="replace").splitlines()[-12:]
        except OSError:
            return ""
        return "".join(f"\n    {line}" for line in lines if line.strip())

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in DAEMON_VARIABLES or k.startswith("RAY_ENVD_")}
        return {**kept, "RAY_ENVD_SOCKET": self._control}

    def _open_log(self) -> int:
        os.makedirs(self._folder, 0o700, exist_ok=True)
        about = os.lstat(self._folder)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise OSError(errno.EPERM, "not a private folder of this user", self._folder)
        try:
            if os.stat(self._file).st_size > START_LOG_BYTES:
                os.replace(self._file, self._file + ".1")
        except OSError:
            pass  # none yet, or another link was faster
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self._file, flags, 0o600)

    def _start(self, argv: list[str]) -> int:
        output = self._open_log()
        if self._offset < 0:
            self._offset = os.lseek(output, 0, os.SEEK_END)
        environment = self._environment()
        pid = os.fork()
        if not pid:
            become_daemon(argv, environment, output)
        os.close(output)
        return pid


def become_daemon(argv: list[str], environment: dict[str, str], output: int) -> None:
    """In the child of a fork: sheds all that it has of the raylet and executes; never returns."""
    try:
        os.setsid()
        os.chdir("/")
        for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGPIPE):
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())  # Ray blocks SIGINT in its children
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:  # noqa: PLR2004 - the three standard streams
                try:
                    os.close(int(name))
                except OSError:
                    pass  # the listing's own
        os.execve(argv[0], argv, environment)  # noqa: S606 - argv of the settings, no shell wanted
    except BaseException as error:  # noqa: BLE001 - nothing may return into the link's own code
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)
