"""What a hit waits for while the node is busy: eight builds at a time, and a collection of 10 GB.

``make bench ONLY=busy_hits`` runs it. One client asks for an env that is ready, on a new connection each
time: on an idle node, while eight environments are built at any time, and while they are and 10 GB are
collected. Stock's agent is asked the same on a node of its own, idle and with eight builds. What is measured
from where to where stands in README.md. The exit code is 1 if there were no builds or no collection
meanwhile, or something was left behind.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools"), str(HERE.parent / "tests")]

# Found by the line above:
from agents import Agent
from daemons import Daemon
from figures import Figures, Series, Target
from helpers import make_wheel
from load import load
from processes import NodeError, wait_until
from script import circumstances, console, installations, parser, run, temporary
from sides import Sides
from stores import evict, seal_seconds

from ray_envd.agent.client import Client
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store

BUILDS = 8
_OBJECT_BYTES, _FILES = 100 << 20, 100  # of an object that is there to be collected
_PIECE = 250  # requests, between two looks at whether the collection goes on

STATES = {
    "idle": "ray-envd, idle",
    "builds": f"ray-envd, {BUILDS} builds",
    "both": f"ray-envd, {BUILDS} builds and a collection",
    "idle_stock": "stock, idle",
    "builds_stock": f"stock, {BUILDS} builds",
}
SERIES = {
    **{f"p50_{name}": Series(f"half of the hits within: {what}") for name, what in STATES.items()},
    **{f"p99_{name}": Series(f"99 % of the hits within: {what}") for name, what in STATES.items()},
    "collected": Series("bytes that a collection freed", "MiB"),
}
RATIOS = {
    "busy_p99": ("99th percentile: builds and a collection to idle", "p99_both", "p99_idle"),
    "builds_p99": ("99th percentile: builds to idle", "p99_builds", "p99_idle"),
    "busy_p50": ("half of the hits: builds and a collection to idle", "p50_both", "p50_idle"),
    "stock_builds_p99": ("stock's 99th percentile: builds to idle", "p99_builds_stock", "p99_idle_stock"),
    "busy_stock": ("99th percentile with builds: stock to ray-envd", "p99_builds_stock", "p99_builds"),
}
TARGETS = {
    "busy_p99": Target(
        most=2,
        of="its idle value",
        limit="of the slowest hundredth of the hits three quarters are waits of the daemon and of the client"
        " for a core, which builds share with them, and a sixth is the daemon's wait for Python's lock, whose"
        " holder waits for a core, too; without the waits for a core 99 % took 0.5 ms",
    ),
}


class Builds:
    """Keeps so many environments under way on an agent, none of which was ever built before."""

    def __init__(self, agent: Agent, wheels: Path, numbers: "itertools.count[int]") -> None:
        self.done = 0
        self._agent, self._wheels, self._numbers = agent, wheels, numbers
        self._lock, self._end = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(BUILDS)
        self._running: list[Future[None]] = [self._threads.submit(self._build) for _ in range(BUILDS)]
        return self

    def abandon(self) -> None:
        """What becomes of those under way is no matter from here on: their agent is going to end."""
        self._end.set()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._threads.shutdown()
        for each in self._running:
            each.result()

    @property
    def failed(self) -> bool:
        """Whether one has ended, which none does by itself."""
        return any(each.done() for each in self._running)

    def _build(self) -> None:
        while not self._end.is_set():
            with self._lock:
                number = next(self._numbers)
                make_wheel(self._wheels, f"busy{number}", "1.0")
            env = env_of(self._wheels, f"busy{number}")
            try:
                self._agent.create(env)
                self._agent.delete(env)
            except (OSError, HTTPException, NodeError):
                if self._end.is_set():
                    return
                raise
            with self._lock:
                self.done += 1


def env_of(wheels: Path, package: str) -> dict[str, Any]:
    """An env of one package that nobody has to ask an index for."""
    options = ["--no-index", "--find-links", str(wheels), "--disable-pip-version-check"]
    return {"pip": {"packages": [package], "pip_check": False, "pip_install_options": options}}


class Bench:
    """Both nodes."""

    def __init__(self, folder: Path, installs: Path, gigabytes: int) -> None:
        self.sides = Sides(folder, installs)
        self.sides.daemon = Daemon.at(folder / "e", "--min-unused-age", "0s", "--max-bytes", "95%")
        self._bytes, self._numbers = gigabytes * 10**9, itertools.count()
        self.wheels = folder / "w"

    def fill(self, rounds: int) -> None:
        """Puts into the store what each round's collection will take out."""
        console.print(f"[dim]filling the store with {rounds} x {self._bytes / 1e9:g} GB[/]")
        store = Store.open(self.sides.daemon.store)
        try:
            for number in range(-(-rounds * self._bytes // _OBJECT_BYTES)):
                _put(store, number)
        finally:
            store.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Both sides, on which an env is ready."""
        with self.sides.running():
            make_wheel(self.wheels, "ready", "1.0")
            self.env = env_of(self.wheels, "ready")
            self.agents = {"": self.sides.attached(), "_stock": Agent(self.sides.stock)}
            for agent in self.agents.values():
                agent.create(self.env)
            wait_until(lambda: seal_seconds(self.sides.daemon) > 0, 60, "the seal of the environment")
            yield

    def _hits(self, side: str, requests: int) -> list[float]:
        agent = self.agents[side]
        return load(agent.address, agent.request(self.env), clients=1, requests=requests).took

    @staticmethod
    def _add(name: str, took: list[float]) -> None:
        SERIES[f"p50_{name}"].add(statistics.median(took) / 1000)
        SERIES[f"p99_{name}"].add(statistics.quantiles(took, n=100)[98] / 1000)

    def idle(self, requests: int) -> None:
        """Both sides, one after the other, with nothing else to do: what was built would be sealed now."""
        evict(self.sides.daemon, 60, but="ready")
        for side in self.agents:
            self._add(f"idle{side}", self._hits(side, requests))

    def busy(self, requests: int) -> None:
        """Builds, then builds and a collection, on our side."""
        with Builds(self.agents[""], self.wheels, self._numbers) as builds:
            wait_until(lambda: builds.done >= BUILDS or builds.failed, 120, "the first builds")
            before = builds.done
            self._add("builds", self._hits("", requests))
            if builds.done == before:
                raise NodeError("no build was done while hits were measured")
            self._add("both", self._while_collecting())

    def _while_collecting(self) -> list[float]:
        took: list[float] = []
        with Client(self.sides.daemon.socket) as client, ThreadPoolExecutor(1) as thread:
            there = client.stats()
            goal = max(0, there.object_bytes + there.uv_cache_bytes - self._bytes)
            collection = thread.submit(client.gc, target_bytes=goal)
            while not collection.done():
                took += self._hits("", _PIECE)
            freed = collection.result().freed_bytes
        SERIES["collected"].add(freed / 2**20)
        if freed < 0.9 * self._bytes:
            raise NodeError(f"the collection freed {freed} bytes only")
        return took

    def busy_stock(self, rounds: int, requests: int) -> None:
        """Builds on stock's side, which take so long that all rounds lie within them."""
        with Builds(self.agents["_stock"], self.wheels, self._numbers) as builds:
            # One is the env that is asked for.
            wait_until(lambda: len(self.sides.stock_pips()) > BUILDS or builds.failed, 120, "stock's builds")
            for _ in range(rounds):
                self._add("builds_stock", self._hits("_stock", requests))
            if builds.failed:
                raise NodeError("one of stock's builds failed")
            builds.abandon()
            self.sides.stock.stop()


def _put(store: Store, number: int) -> None:
    """An object of many files whose blocks are there, though nothing was written into them."""
    owner = Owner.current()
    build = store.begin(ObjectKey(owner.uid, "archive", digest_of(f"to be collected {number}")), owner)
    for each in range(_FILES):
        with (build.path / f"file-{each}").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _OBJECT_BYTES // _FILES)
    entry = store.commit(build, summary="to be collected", build_seconds=0.1, details={})
    # As if it had been there for a while: else the daemon would read all of it, to seal it.
    store.seal(entry.key, entry.generation, units=None, stamped=())
    store.unhold(entry.key, entry.generation)


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with temporary() as short, installations() as installs:
        bench = Bench(short, installs, arguments.gigabytes)
        figures = Figures(SERIES, RATIOS, circumstances(short), TARGETS)
        bench.fill(arguments.rounds)
        with bench.running():
            for number in range(arguments.rounds):
                console.print(f"[dim]round {number + 1} of {arguments.rounds}[/]")
                bench.idle(arguments.requests)
                bench.busy(arguments.requests)
            console.print("[dim]stock's builds[/]")
            bench.busy_stock(arguments.rounds, arguments.requests)
    return figures


def main() -> int:
    """The command."""
    asked = parser(__doc__, rounds=2, requests=2000, gigabytes=10)
    return run(asked, measure, "Hits on a busy node")


if __name__ == "__main__":
    sys.exit(main())
