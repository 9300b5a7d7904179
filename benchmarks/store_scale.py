"""How a daemon fares with ten thousand objects and a hundred thousand references, next to one with ten.

``make bench`` runs it; by hand: ``.venv/bin/python benchmarks/store_scale.py --json out.json``. What is
measured from where to where stands in README.md. Both stores are generated for it, and both daemons are
measured in turn. The exit code is 1 if a measurement was not what it claims to be.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from daemons import Daemon  # noqa: E402
from figures import Figures, Series, machine  # noqa: E402
from hellos import attached  # noqa: E402
from large_store import LargeStore, make_large_store  # noqa: E402
from load import load  # noqa: E402
from processes import NodeError  # noqa: E402
from rich.console import Console  # noqa: E402

from ray_envd.agent.pb import runtime_env_pb2 as pb  # noqa: E402

SERIES = {
    "ready": Series("process start to READY=1: an empty store"),
    "ready_large": Series("process start to READY=1: 10,000 objects, 100,000 references"),
    "ready_killed": Series("process start to READY=1: the same, after a SIGKILL with 300 envs bound since"),
    "back_large": Series("a session of 1,000 envs comes back: its hello"),
    "hit": Series("hit, 10 objects: half of the answers within"),
    "hit_large": Series("hit, 10,000 objects: half of the answers within"),
    "hit_p99": Series("hit, 10 objects: 99 % of the answers within"),
    "hit_p99_large": Series("hit, 10,000 objects: 99 % of the answers within"),
    "memory": Series("resident, an empty store, after the start", "MiB"),
    "memory_large": Series("resident, 10,000 objects and 100,000 references, after the start", "MiB"),
    "ls_large": Series("ray-envd ls --json, 10,000 objects"),
    "gc_large": Series("ray-envd gc --dry-run --to 0B --json, 10,000 objects"),
}
RATIOS = {
    "hit": ("a hit: 10,000 objects to 10 objects", "hit_large", "hit"),
    "hit_p99": ("99th percentile of hits: 10,000 objects to 10", "hit_p99_large", "hit_p99"),
    "ready": ("time until ready: 10,000 objects to none", "ready_large", "ready"),
    "memory": ("memory: 10,000 objects to none", "memory_large", "memory"),
}
_MOST_KILLED, _BOUND_SINCE = 3, 300
console = Console(stderr=True, highlight=False)


class Bench:
    """Two stores, and a folder for what else there is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.series = folder, SERIES
        console.print("[dim]making two stores[/]")
        self.large = make_large_store(folder / "large", objects=10_000, envs=10_000, references=100_000)
        self.small = make_large_store(folder / "small", objects=10, envs=10, references=100)

    def daemon(self, store: Path, **environment: str) -> Daemon:
        """A daemon on one of the stores, or another; not started."""
        name = store.name
        return Daemon(store, self.folder / f"{name}.sock", self.folder / f"{name}.log", (), environment)

    @contextlib.contextmanager
    def serving(self, store: Path) -> Iterator[Daemon]:
        """The same, while it serves."""
        daemon = self.daemon(store).start()
        try:
            yield daemon
        finally:
            daemon.stop()

    def starts(self, rounds: int) -> None:
        """Starts of daemons, on an empty store and on the large one in turn."""
        for number in range(rounds):
            console.print(f"[dim]starts: round {number + 1} of {rounds}[/]")
            self._start("ready", self.folder / "empty", "memory")
            self._start("ready_large", self.large.root, "memory_large")
            if number < _MOST_KILLED:  # each makes the store a little larger
                self._bind_more(number)
                self._start("ready_killed", self.large.root)

    def _start(self, series: str, store: Path, memory: str | None = None) -> None:
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        daemon = self.daemon(store, NOTIFY_SOCKET=os.fspath(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(os.fspath(path))
            supervisor.settimeout(60)
            began = time.perf_counter()
            daemon.spawn()
            while b"READY=1" not in supervisor.recv(4096):
                pass
            self.series[series].add((time.perf_counter() - began) * 1000)
        if memory is not None:
            self.series[memory].add(daemon.stats().resident_bytes / 1024**2)
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
            [sys.executable, "-m", "ray_envd", *words, "--json"],
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


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON too")
    for name, default in (("starts", 10), ("hits", 5), ("requests", 2000), ("commands", 3)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rebs-", dir="/tmp"))
    try:
        figures = Figures(SERIES, RATIOS, machine(folder))
        bench = Bench(folder)
        bench.starts(arguments.starts)
        bench.hits(arguments.hits, arguments.requests)
        bench.commands(arguments.commands)
    except (NodeError, OSError, subprocess.CalledProcessError) as error:
        console.print(f"wrong: {error}", style="red", markup=False)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures.show(Console(highlight=False), "A large store")
    if arguments.json:
        figures.write(arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
