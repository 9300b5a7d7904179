"""Where the soak happens: a store, a clock, and one daemon that comes back however it dies.

Everything is started here and found again by its id, its mark or the store that it names, never by its name.
"""

import shlex
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from daemons import serves
from processes import NodeError, alive, clean_environment, kill, marked, wait_until

_MIB = 1024**2
#: The budget leaves room for the guess that is reserved for each build; the watermarks keep the store small.
_SETTINGS = {
    "max-bytes": f"{1200 * _MIB}",
    "high-watermark": f"{20 * _MIB}",
    "low-watermark": f"{14 * _MIB}",
    "min-unused-age": "3s",
    "resolution-ttl": "20s",
    "http": "127.0.0.1:0",
}
HIGH_BYTES = 20 * _MIB
_LOCKED = 5  # a daemon's exit code for "another one has the store"
_START_SECONDS = 20.0

#: argv[1] is "supervised" where the supervisor starts it; links that must leave it to him hear that another
#: was faster.
_SCRIPT = """#!/bin/sh
[ "$1" = supervised ] || [ ! -e {flag} ] || exit {locked}
export SOAK_CLOCK={clock} LD_PRELOAD={library}
exec {command} >>{log} 2>&1
"""


@dataclass
class Place:
    """The folders, the daemon and the clock."""

    folder: Path
    due: float = 0.0
    _child: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Path:
        """The store."""
        return self.folder / "store"

    @property
    def socket(self) -> Path:
        """The daemon's control socket."""
        return self.folder / "d.sock"

    @property
    def log(self) -> Path:
        """What all daemons wrote."""
        return self.folder / "daemon.log"

    @property
    def script(self) -> Path:
        """Starts a daemon."""
        return self.folder / "daemon.sh"

    @property
    def _flag(self) -> Path:
        return self.folder / "supervised"

    @property
    def _clock(self) -> Path:
        return self.folder / "clock"

    def make(self) -> None:
        """Writes the script, compiles the clock."""
        library = self.folder / "clock.so"
        source = Path(__file__).with_name("soak_clock.c")
        flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, "-o", library, source], check=True)
        self.move_clock(0)
        options = [word for name, value in _SETTINGS.items() for word in (f"--{name}", value)]
        command = [sys.executable, "-m", "ray_envd", "serve", "--store", str(self.store)]
        command += ["--socket", str(self.socket), *options]
        self.script.write_text(
            _SCRIPT.format(
                flag=self._flag,
                locked=_LOCKED,
                clock=self._clock,
                library=library,
                log=self.log,
                command=shlex.join(command),
            )
        )
        self.script.chmod(0o755)
        self.supervise()

    def move_clock(self, seconds: int) -> None:
        """From now on the daemon's wall clock is so much ahead."""
        if not self._clock.exists():
            self._clock.write_bytes(bytes(8))
        with self._clock.open("r+b") as file:
            file.write(struct.pack("=q", seconds))

    # the daemon

    def supervise(self, after: float = 0.0) -> None:
        """The next daemon is started here, after so many seconds, as a service manager would."""
        self.due = time.monotonic() + after
        self._flag.touch()

    def leave_to_links(self) -> None:
        """The next daemon is started by whichever link is first."""
        self._flag.unlink(missing_ok=True)

    def daemon_pid(self) -> int | None:
        """The daemon that has the store; None if it is dead."""
        try:
            pid = int((self.store / "daemon.lock").read_text().split()[0])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return pid if alive(pid) and str(self.store).encode() in words else None

    def look_after(self) -> None:
        """Starts the daemon where that is the supervisor's turn; called again and again by one thread."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        due = self._flag.exists() and self._child is None and time.monotonic() >= self.due
        if due and self.daemon_pid() is None:
            self._start()

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [self.script, "supervised"],
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
            start_new_session=True,
        )
        self.due = time.monotonic() + 1.0

    def wait_served(self, deadline: float = _START_SECONDS) -> int:
        """The pid of a daemon that serves.

        Raises:
            NodeError: there is none in time.
        """
        try:
            wait_until(lambda: self.daemon_pid() and serves(self.socket), deadline, "a daemon", every=0.1)
        except TimeoutError as error:
            raise NodeError(f"{error}\n{self.tail()}") from error
        return self.daemon_pid() or 0

    def tools(self) -> list[int]:
        """The processes that daemons of this store started to resolve, install, build and fetch."""
        return marked(f"RAY_ENVD_TOOL_OF={self.store}")

    def end(self) -> int | None:
        """SIGTERM for the daemon, once nobody would start it again; its exit code where it is our child."""
        self._flag.touch()
        self.due = float("inf")
        pid, child = self.daemon_pid(), self._child
        if pid is None:
            return None
        kill([pid], signal.SIGTERM)
        wait_until(lambda: not alive(pid), 40, "the daemon's end")
        return child.wait() if child is not None and child.pid == pid else 0

    def tail(self, lines: int = 40) -> str:
        """The end of the daemons' log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else "(no log)"
        return "\n".join(text.splitlines()[-lines:])


def environment_of(pid: int) -> dict[str, str]:
    """The environment with which a process began; empty if it cannot be seen."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in raw.split("\0") if "=" in line)
