"""Where the soak happens: one daemon that comes back however it dies, a cluster of a head and more raylets.

Everything is started here and found again by its id, its mark or the store that it names, never by its name.
"""

import contextlib
import random
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemons import serves
from processes import NodeError, alive, clean_environment, end_marked, kill, marked, wait_until
from rays import ROOT, MoreNode, RayNode, install_ray, link_pids

from ray_envd.agent.attach import attach

RAY = "2.60.0"
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
_CPUS = 3  # of each node: so many workers of it may start at once
#: A raylet that was killed is to be known as dead soon; one that is slow is to live. No workers in advance.
_RAY = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_prestart_worker_first_driver": "0",
}

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
    chance: random.Random
    supervised_pids: list[int] = field(default_factory=list)
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


@dataclass
class Cluster:
    """A head, whose raylet lives, and more raylets, which are killed and come back."""

    place: Place
    installs: Path
    more_nodes: int
    note: Callable[[str], None]
    head: RayNode = field(init=False)
    more: list[MoreNode] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Brings everything up, and looks after it from now on."""
        python = install_ray(RAY, self.installs / "ray")
        attach(python, socket=None, daemon=[str(self.place.script)])
        environment = {"RAY_ENVD_SOCKET": str(self.place.socket), **_RAY}
        self._begin(self._look_after_daemon)
        self.place.wait_served()
        self.head = RayNode(python, self.place.folder / "h", environment, cpus=_CPUS).start()
        for number in range(self.more_nodes):
            node = MoreNode(
                python,
                self.place.folder / f"w{number}",
                environment,
                token=self.head.token,
                head=self.head,
                cpus=_CPUS,
            )
            self.more.append(node)
            self._start(node)
            self._begin(self._look_after_node, node)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _look_after_daemon(self) -> None:
        while not self._stopping.wait(0.1):
            self.place.look_after()

    def _look_after_node(self, node: MoreNode) -> None:
        while not self._stopping.wait(0.5):
            process = node.process
            if process is None or process.poll() is not None or not node.pids("raylet"):
                node.stop()
                self._start(node)

    def _start(self, node: MoreNode) -> None:
        try:
            node.start()
        except NodeError as error:
            # What is so killed while it starts is started again; how often is in the report.
            self.note(f"raylet did not start: {error}")

    def raylets(self, nodes: list[RayNode] | None = None) -> Iterator[tuple[RayNode, int]]:
        """The living raylets of some nodes, by default of those that may be killed."""
        for node in self.more if nodes is None else nodes:
            for pid in node.pids("raylet"):
                yield node, pid

    @property
    def nodes(self) -> list[RayNode]:
        """All of them."""
        return [self.head, *self.more]

    def links(self, node: RayNode) -> list[int]:
        """A node's link."""
        return link_pids(node)

    def restore(self, deadline: float = 90.0) -> None:
        """Waits until all raylets are up again."""
        wait_until(lambda: len(list(self.raylets(self.nodes))) == len(self.nodes), deadline, "all raylets")

    def stop_nodes(self) -> None:
        """Ends the cluster; the daemon stays and is looked after."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        self._threads.clear()
        self._stopping.clear()
        self._begin(self._look_after_daemon)
        for node in [*self.more, *([self.head] if hasattr(self, "head") else [])]:
            node.stop()

    def close(self) -> None:
        """Ends everything, whatever state it is in."""
        with contextlib.suppress(TimeoutError):
            self.stop_nodes()
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        # All of it names the folder: daemons, their tools, links.
        end_marked(str(self.place.folder))


def environment_of(pid: int) -> dict[str, str]:
    """The environment with which a process began; empty if it cannot be seen."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in raw.split("\0") if "=" in line)


def default_installs(pid: int) -> Path:
    """Where Ray is installed for one run: on the file system of uv's cache."""
    return ROOT / ".work" / f"soak-{pid}"
