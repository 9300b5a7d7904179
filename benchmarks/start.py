"""How long a daemon and a link take to start, and what memory they take; also with a large store.

``make bench ONLY=start`` runs it; by hand: ``.venv/bin/python benchmarks/start.py --starts 20``. What is
measured from where to where stands in README.md. The exit code is 1 if a measurement was not what it claims
to be or something was left behind.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from daemons import Daemon
from figures import Figures, Series, Target
from hellos import attached
from installed import install
from large_store import LargeStore, make_large_store
from link_starts import Links
from load import load
from memory import memory_of
from processes import NodeError, marked, wait_until
from rays import RayNode, link_pids
from script import circumstances, console, installations, parser, run, temporary
from sides import Sides

from ray_envd.agent.client import Client
from ray_envd.agent.pb import runtime_env_pb2 as pb

SERIES = {
    "first": Series("process start to READY=1: the first ever, no store"),
    "ready": Series("process start to READY=1: an empty store"),
    "ready_large": Series("process start to READY=1: 10,000 objects, 100,000 references"),
    "ready_killed": Series("process start to READY=1: the same, after a SIGKILL with 300 envs bound since"),
    "ready_plain": Series("process start to READY=1: an empty store, modules without bytecode"),
    "link": Series("process start to listening: a link"),
    "back_large": Series("a session of 1,000 envs comes back: its hello"),
    "hit": Series("hit, 10 objects: half of the answers within"),
    "hit_large": Series("hit, 10,000 objects: half of the answers within"),
    "hit_p99": Series("hit, 10 objects: 99 % of the answers within"),
    "hit_p99_large": Series("hit, 10,000 objects: 99 % of the answers within"),
    "daemon_rss": Series("resident: the daemon with one node, idle for 10 s", "MiB"),
    "daemon_pss": Series("  its share of that (PSS)", "MiB"),
    "link_rss": Series("resident: the link", "MiB"),
    "link_pss": Series("  its share of that (PSS)", "MiB"),
    "stock_rss": Series("resident: stock's runtime-env agent", "MiB"),
    "stock_pss": Series("  its share of that (PSS)", "MiB"),
    "hits_rss": Series("resident: the daemon after --hits hits more", "MiB"),
    "builds_rss": Series("resident: the daemon after --builds environments more", "MiB"),
    "memory": Series("resident: an empty store, after the start", "MiB"),
    "memory_large": Series("resident: 10,000 objects and 100,000 references, after the start", "MiB"),
    "ls_large": Series("ray-envd ls --json, 10,000 objects"),
    "gc_large": Series("ray-envd gc --dry-run --to 0B --json, 10,000 objects"),
}
RATIOS = {
    "ready": ("time until ready: 10,000 objects to none", "ready_large", "ready"),
    "hit": ("a hit: 10,000 objects to 10 objects", "hit_large", "hit"),
    "hit_p99": ("99th percentile of hits: 10,000 objects to 10", "hit_p99_large", "hit_p99"),
    "node_rss": ("memory of a node: the link to stock's agent", "link_rss", "stock_rss"),
    "daemon_to_stock": (
        "memory: the daemon of all nodes of a machine to one stock agent",
        "daemon_rss",
        "stock_rss",
    ),
    "memory_large": ("memory: 10,000 objects to none", "memory_large", "memory"),
}
#: What was asked for are 60 and 12 MB, of a million bytes each: so is the 82 MB of stock's agent beside them.
_MIB = 1e6 / 2**20
TARGETS = {
    "first": Target(most=300),
    "ready_large": Target(most=1000),
    "link": Target(most=80),
    "daemon_rss": Target(
        most=round(60 * _MIB, 1),
        limit="that is 60 MB; gRPC has 10 of what there is, Python 8, asyncio and TLS 6, prometheus-client,"
        " protobuf and click 3 each, sqlite and the cache over it 2",
    ),
    "link_rss": Target(
        most=round(12 * _MIB, 1), limit="that is 12 MB; Python alone has 7.9 MiB, on Python 3.12 9.5"
    ),
}
_MOST_KILLED, _BOUND_SINCE = 3, 300
_IDLE = 10.0  # seconds


class Stores:
    """Daemons without a node, on two stores that are made, and on empty ones.

    Attributes:
        python: of an installation with bytecode.
        plain: of one without.
    """

    def __init__(self, folder: Path, python: Path, plain: Path) -> None:
        self.folder, self.series, self.python, self.plain = folder, SERIES, python, plain
        console.print("[dim]making two stores[/]")
        self.large = make_large_store(folder / "large", objects=10_000, envs=10_000, references=100_000)
        self.small = make_large_store(folder / "small", objects=10, envs=10, references=100)

    def daemon(self, store: Path, **environment: str) -> Daemon:
        """A daemon on one of the stores, or another; not started."""
        name = store.name
        log = self.folder / f"{name}.log"
        return Daemon(store, self.folder / f"{name}.sock", log, (), environment, python=self.python)

    @contextlib.contextmanager
    def serving(self, store: Path) -> Iterator[Daemon]:
        """The same, while it serves."""
        daemon = self.daemon(store).start()
        try:
            yield daemon
        finally:
            daemon.stop()

    def starts(self, rounds: int) -> None:
        """Starts of daemons, on each kind of store in turn."""
        self._start("ready_plain", self.folder / "empty", python=self.plain)
        for number in range(rounds):
            console.print(f"[dim]starts: round {number + 1} of {rounds}[/]")
            self._start("first", self.folder / "new")
            shutil.rmtree(self.folder / "new")
            self._start("ready", self.folder / "empty", "memory")
            self._start("ready_large", self.large.root, "memory_large")
            if number < _MOST_KILLED:  # each makes the store a little larger
                self._start("ready_plain", self.folder / "empty", python=self.plain)
                self._bind_more(number)
                self._start("ready_killed", self.large.root)

    def _start(self, series: str, store: Path, memory: str | None = None, python: Path | None = None) -> None:
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        daemon = self.daemon(store, NOTIFY_SOCKET=os.fspath(path))
        daemon.python = python or self.python
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(os.fspath(path))
            supervisor.settimeout(60)
            began = time.perf_counter()
            daemon.spawn()
            while b"READY=1" not in supervisor.recv(4096):
                pass
            self.series[series].add((time.perf_counter() - began) * 1000)
        if memory is not None:
            self.series[memory].add(memory_of(daemon.pid).resident)
        daemon.stop()

    def _bind_more(self, round_number: int) -> None:
        """A daemon's last minutes: new envs in one session, and no time to say goodbye."""
        daemon = self.daemon(self.large.root).start()
        with attached(daemon.socket, self.large.sessions[0], self.folder) as port:
            for number in range(_BOUND_SINCE):
                env = {"py_executable": f"python{round_number}.{number}"}
                request = pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=json.dumps(env))
                load(("127.0.0.1", port), http(request), clients=1, requests=2)
            daemon.kill()

    def hits(self, rounds: int, requests: int) -> None:
        """Hits on both daemons in turn; each env that is asked for is one of before the start."""
        with (
            self.serving(self.small.root) as small,
            self.serving(self.large.root) as large,
            self._session(small, self.small, None) as few,
            self._session(large, self.large, "back_large") as many,
        ):
            for number in range(rounds):
                console.print(f"[dim]hits: round {number + 1} of {rounds}[/]")
                for side, port, made in (("", few, self.small), ("_large", many, self.large)):
                    request = pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=made.serialized(0))
                    found = load(("127.0.0.1", port), http(request), clients=1, requests=requests)
                    self.series[f"hit{side}"].add(found.p50)
                    self.series[f"hit_p99{side}"].add(found.p99)
            for daemon in (small, large):
                if daemon.stats().builds:
                    raise NodeError("a hit was built")

    @contextlib.contextmanager
    def _session(self, daemon: Daemon, made: LargeStore, series: str | None) -> Iterator[int]:
        began = time.perf_counter()
        with attached(daemon.socket, made.session_of(0), self.folder) as port:
            if series is not None:
                self.series[series].add((time.perf_counter() - began) * 1000)
            yield port

    def commands(self, rounds: int) -> None:
        """What people call."""
        with self.serving(self.large.root) as daemon:
            for number in range(rounds):
                console.print(f"[dim]commands: round {number + 1} of {rounds}[/]")
                if len(self._command("ls_large", daemon, "ls")) != self.large.objects:
                    raise NodeError("ls does not list everything")
                self._command("gc_large", daemon, "gc", "--dry-run", "--to", "0B")

    def _command(self, series: str, daemon: Daemon, *words: str) -> Any:
        environment = {**os.environ, "RAY_ENVD_SOCKET": str(daemon.socket)}
        began = time.perf_counter()
        done = subprocess.run(
            [self.python, "-m", "ray_envd", *words, "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        self.series[series].add((time.perf_counter() - began) * 1000)
        return json.loads(done.stdout)


def http(request: pb.GetOrCreateRuntimeEnvRequest) -> bytes:
    """The raylet's call, as it stands on the wire."""
    body = request.SerializeToString()
    head = f"POST /get_or_create_runtime_env HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Nodes:
    """The memory of what runs beside a raylet, ours and stock's."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    def idle(self, rounds: int) -> None:
        """A daemon that has been started for a node that is there, and has had nothing to do since."""
        for number in range(rounds):
            console.print(f"[dim]memory: round {number + 1} of {rounds}[/]")
            self.sides.daemon.stop()
            self.sides.daemon.start()
            self.sides.attached()
            (link,), stock = link_pids(self.sides.ours), _stock_agent(self.sides.stock)
            time.sleep(_IDLE)
            for name, pid in (("daemon", self.sides.daemon.pid), ("link", link), ("stock", stock)):
                memory = memory_of(pid)
                SERIES[f"{name}_rss"].add(memory.resident)
                SERIES[f"{name}_pss"].add(memory.share)

    def after_work(self, hits: int, builds: int) -> None:
        """The same daemon, when it has worked: its memory must not grow with what it has done."""
        agent, env = self.sides.attached(), {"env_vars": {"A": "b"}}  # each hit is a reference
        agent.create(env)
        load(agent.address, agent.request(env), clients=10, requests=hits)
        SERIES["hits_rss"].add(memory_of(self.sides.daemon.pid).resident)
        console.print(f"[dim]memory: {builds} environments[/]")
        for number in range(builds):
            self._build({"uv": {"packages": [f"cowsay==6.{number % 2}"]}})
        SERIES["builds_rss"].add(memory_of(self.sides.daemon.pid).resident)

    def _build(self, env: dict[str, Any]) -> None:
        before = self.sides.daemon.stats().builds
        self.sides.evict()
        with Client(self.sides.daemon.socket) as client:
            for _ in client.create(env, python=str(self.sides.ours.python)):
                pass
        if self.sides.daemon.stats().builds == before:
            raise NodeError("nothing was built: the env was not new")


def _stock_agent(node: RayNode) -> int:
    """The process of stock's runtime-env agent, once it has given itself its name."""

    def named() -> list[int]:
        pids = marked(node.mark)
        return [pid for pid in pids if b"RuntimeEnvAgent" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    (pid,) = wait_until(named, 60, "stock's runtime-env agent")
    return int(pid)


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with temporary() as folder, installations() as installs:
        console.print("[dim]installing ray-envd twice[/]")
        installs.mkdir()
        python, plain = install(installs / "c", bytecode=True), install(installs / "p", bytecode=False)
        figures = Figures(SERIES, RATIOS, circumstances(folder), TARGETS)
        stores = Stores(folder, python, plain)
        stores.starts(arguments.starts)
        stores.hits(arguments.rounds, arguments.requests)
        stores.commands(arguments.commands)
        sides = Sides(folder, installs)
        links = Links(folder / "link", sides.ours.python)
        for _ in range(arguments.starts):
            SERIES["link"].add(links.start() * 1000)
        sides.daemon.python = python
        nodes = Nodes(sides)
        with sides.running():
            nodes.idle(arguments.idle)
            nodes.after_work(arguments.hits, arguments.builds)
    return figures


def main() -> int:
    """The command."""
    counts = {
        "starts": 8,
        "rounds": 3,
        "requests": 2000,
        "commands": 3,
        "idle": 3,
        "hits": 1000,
        "builds": 100,
    }
    return run(parser(__doc__, **counts), measure, "Starts and memory")


if __name__ == "__main__":
    sys.exit(main())
