"""How long a new pip env takes whose one small package was fetched before, and how long it takes again.

``make bench`` runs it; by hand: ``.venv/bin/python benchmarks/new_env.py --json out.json --rounds 20``. What
is measured from where to where stands in README.md. All sides are measured in turn in the same run, on one
node of ray-envd and one of stock Ray, which are made for it and gone at the end with all their files. The
exit code is 1 if a measurement was not what it claims to be or something was left behind.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from agents import Agent
from figures import Figures, Series, Target
from processes import NodeError
from script import RAY, circumstances, console, installations, parser, run, temporary
from sides import Sides, pip_env
from uv_alone import UvAlone

from ray_envd.agent.client import Client, Created

SERIES = {
    "new": Series("new env: ray-envd, the daemon's time"),
    "new_http": Series("new env: ray-envd, as the raylet sees it"),
    "uv": Series("new env: uv alone, offline (three runs)"),
    "uv_resolve": Series("  uv pip install --dry-run"),
    "uv_venv": Series("  uv venv"),
    "uv_install": Series("  uv pip install"),
    "uv_prefix": Series("  uv pip install --prefix, where the interpreter is known"),
    "uv_used": Series("new env: the two runs of uv that ray-envd makes, alone"),
    "new_stock": Series("new env: stock Ray, as the raylet sees it"),
    "again_http": Series("hit: daemon restarted, same cluster, as the raylet sees it"),
    "again": Series("hit: daemon restarted, new session, the daemon's time"),
    "again_warm": Series("hit: daemon not restarted, new session, the daemon's time"),
    "again_other": Series("hit: cluster restarted, same daemon, as the raylet sees it"),
    "again_cluster": Series("hit: daemon and cluster restarted, as the raylet sees it"),
}
RATIOS = {
    "stock_to_new": ("a new env: stock to ray-envd, as the raylet sees it", "new_stock", "new_http"),
    "new_to_uv": ("a new env: ray-envd's daemon time to uv alone", "new", "uv"),
    "new_to_used": ("a new env: ray-envd's daemon time to its two runs of uv alone", "new", "uv_used"),
    "stock_to_restart": (
        "after a restart of daemon and cluster: stock (builds) to ray-envd (hits)",
        "new_stock",
        "again_cluster",
    ),
}
TARGETS = {
    "stock_to_new": Target(least=100, of="stock"),
    "new_to_uv": Target(most=1.3, of="uv alone"),
    "again_http": Target(most=5),
    "again_other": Target(
        most=5,
        limit="A session's first request reads pip's configuration and the interpreter's stamps, looks at the"
        " object and binds it on disk, in five turns of threads, while Ray still starts and takes both cores",
    ),
    "again_cluster": Target(most=50),
}


class Bench:
    """Both sides, uv alone, and what was measured on them."""

    def __init__(self, folder: Path, installs: Path, package: str) -> None:
        self.series, self.env = SERIES, pip_env(package)
        self.sides = Sides(folder, installs)
        self.daemon = self.sides.daemon
        self.uv = UvAlone(folder / "u", self.sides.ours.python)

    def add(self, name: str, seconds: float) -> None:
        """One measurement."""
        self.series[name].add(seconds * 1000)

    # ray-envd

    def create(self, *, hit: bool) -> float:
        """The env through the admin API, in a new session; the daemon's seconds."""
        with Client(self.daemon.socket) as client:
            for event in client.create(self.env, python=str(self.sides.ours.python)):
                if isinstance(event, Created):
                    if event.cache_hit is not hit:
                        raise NodeError(f"wanted {'a hit' if hit else 'a new env'}, got the other")
                    return event.seconds
        raise NodeError("the daemon said nothing")

    def restart_daemon(self) -> None:
        """Ends it in order and starts another on the same store."""
        self.daemon.stop()
        self.daemon.start()

    # the parts of the benchmark

    def new_envs(self, rounds: int, stock_rounds: int) -> None:
        """New envs: uv alone, the daemon, the raylet's port and stock, in turn."""
        agent, stock = self.sides.attached(), Agent(self.sides.stock)
        console.print("[dim]fetching the package once on each side[/]")
        self.create(hit=False)
        self.sides.evict()
        self.uv.warm(self.env["pip"])
        self._stock_env(stock)
        for number in range(rounds):
            console.print(f"[dim]new envs: round {number + 1} of {rounds}[/]")
            for name, seconds in self.uv.round(number).items():
                self.add(name, seconds)
            self.add("new", self.create(hit=False))
            self.sides.evict()
            self.add("new_http", agent.create(self.env))
            agent.delete(self.env)
            self.sides.evict()
            if number * stock_rounds // rounds != (number + 1) * stock_rounds // rounds:
                self.add("new_stock", self._stock_env(stock))

    def _stock_env(self, agent: Agent) -> float:
        if self.sides.stock_pips():
            raise NodeError("stock kept its environment: the next would not be new")
        took = agent.create(self.env)
        agent.delete(self.env)
        self.sides.stock_evicted()
        return took

    def restarts(self, rounds: int, cluster_rounds: int) -> None:
        """Hits after a daemon's end, with the cluster as it was or another one."""
        agent = self.sides.attached()
        agent.create(self.env)
        for number in range(rounds):
            console.print(f"[dim]restarts: round {number + 1} of {rounds}[/]")
            self.restart_daemon()
            self.add("again_http", self.sides.attached().create(self.env))
            self.restart_daemon()
            self.add("again", self.create(hit=True))
            self.add("again_warm", self.create(hit=True))
        for number in range(cluster_rounds):
            console.print(f"[dim]restarts of the cluster: round {number + 1} of {cluster_rounds}[/]")
            self._cluster_again("again_other", daemon_too=False)
            self._cluster_again("again_cluster", daemon_too=True)

    def _cluster_again(self, name: str, *, daemon_too: bool) -> None:
        self.sides.ours.stop()
        if daemon_too:
            self.restart_daemon()
        before = self.daemon.stats().builds
        self.sides.ours.start()
        self.add(name, self.sides.attached().create(self.env))
        if self.daemon.stats().builds != before:
            raise NodeError("the restarted cluster's env was built anew")


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with temporary() as short, installations() as installs:
        bench = Bench(short, installs, arguments.package)
        told = circumstances(short, package=arguments.package)
        figures = Figures(bench.series, RATIOS, told, TARGETS)
        with bench.sides.running():
            bench.new_envs(arguments.rounds, arguments.stock_rounds)
            bench.restarts(arguments.restarts, arguments.cluster_restarts)
    return figures


def main() -> int:
    """The command."""
    counts = {"rounds": 20, "stock_rounds": 5, "restarts": 10, "cluster_restarts": 3}
    asked = parser(__doc__, **counts)
    asked.add_argument("--package", default="cowsay==6.1", help="the pinned package")
    return run(asked, measure, f"A new pip env of {{package}} on Ray {RAY}")


if __name__ == "__main__":
    sys.exit(main())
