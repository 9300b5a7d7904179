"""Many tasks at once, each in a small new pip env of its own: until the last result, beside stock Ray.

``make bench ONLY=burst`` runs it; by hand: ``.venv/bin/python benchmarks/burst.py --full``. What is measured
from where to where stands in README.md. The exit code is 1 if a measurement was not what it claims to be or
something was left behind.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from drivers import Driver
from figures import Figures, Series, Target
from processes import NodeError, wait_until
from script import RAY, circumstances, console, installations, parser, run, temporary
from sides import Sides
from wheels import small_wheel

SERIES = {
    "few": Series("so many as stock is given: ray-envd, until the last result", "s"),
    "few_stock": Series("so many as stock is given: stock", "s"),
    "few_plain": Series("so many as stock is given, of variables alone: ray-envd", "s"),
    "many": Series("all of them: ray-envd, until the last result", "s"),
    "many_plain": Series("all of them, of variables alone: ray-envd", "s"),
}
RATIOS = {
    "few_to_stock": ("until the last result: ray-envd to stock", "few", "few_stock"),
    "plain_to_stock": ("until the last result: variables alone to stock with pip", "few_plain", "few_stock"),
    "few_to_plain": ("until the last result: pip to variables alone, as many", "few", "few_plain"),
    "many_to_plain": ("until the last result: pip to variables alone, all of them", "many", "many_plain"),
}
TARGETS = {
    "few_to_stock": Target(
        most=0.05,
        of="stock",
        limit="each task needs a worker of its own, and starting workers takes what tasks of variables alone"
        " take: see their ratio to stock, below which no agent gets",
    )
}


class Bench:
    """Both sides, a driver on each; every env is new, and its wheel is on this machine."""

    def __init__(self, sides: Sides, wheels: Path) -> None:
        self.sides, self.wheels = sides, wheels
        self.ours, self.stock = Driver(sides.ours), Driver(sides.stock)
        self._numbers = itertools.count()

    def _pips(self, count: int) -> list[tuple[dict[str, Any], str]]:
        options = ["--no-index", "--find-links", str(self.wheels), "--disable-pip-version-check"]
        tasks = []
        for _ in range(count):
            name = f"own{next(self._numbers)}"
            small_wheel(self.wheels, name)
            field = {"packages": [f"{name}==1.0"], "pip_check": False, "pip_install_options": options}
            tasks.append(({"pip": field}, name))
        return tasks

    def pip(self, driver: Driver, count: int) -> float:
        """Seconds for so many tasks in new pip envs."""
        seconds, has = driver.tasks(self._pips(count))
        if not all(has):
            raise NodeError("a task was not in its env")
        return seconds

    def new(self, count: int) -> float:
        """The same on ray-envd, where each was built for its task."""
        before = self.sides.daemon.stats().builds
        seconds = self.pip(self.ours, count)
        if (built := self.sides.daemon.stats().builds - before) < count:
            raise NodeError(f"{built} environments were built, not {count}")
        self.sides.evict()
        return seconds

    def new_stock(self, count: int) -> float:
        """The same on stock; what it has made is gone afterwards."""
        seconds = self.pip(self.stock, count)
        wait_until(lambda: not self.sides.stock_pips(), 60, "the removal of stock's environments")
        return seconds

    def plain(self, count: int) -> float:
        """Seconds for so many tasks, each with a variable of its own, on ray-envd."""
        tasks = [({"env_vars": {"NUMBER": str(next(self._numbers))}}, "own") for _ in range(count)]
        return self.ours.tasks(tasks)[0]

    def rounds(self, count: int, few: int, rounds: int, *, full: bool) -> None:
        """Each in turn; the first of each is not counted."""
        console.print("[dim]one of each, not counted[/]")
        for part in (self.new, self.new_stock, self.plain):
            part(1)
        for number in range(rounds):
            console.print(f"[dim]{few} at once: round {number + 1} of {rounds}[/]")
            for name, part in (("few", self.new), ("few_stock", self.new_stock), ("few_plain", self.plain)):
                SERIES[name].add(part(few))
        if not full:
            console.print(f"[dim]{count} at once[/]")
            SERIES["many_plain"].add(self.plain(count))
            SERIES["many"].add(self.new(count))


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    few, rounds = (arguments.tasks, 1) if arguments.full else (arguments.few, arguments.rounds)
    with temporary() as short, installations() as installs:
        sides = Sides(short, installs)
        told = circumstances(short, tasks=arguments.tasks, tasks_beside_stock=few)
        with sides.running():
            bench = Bench(sides, short / "wheels")
            bench.rounds(arguments.tasks, few, rounds, full=arguments.full)
    return Figures(SERIES, RATIOS, told, TARGETS)


def main() -> int:
    """The command."""
    asked = parser(__doc__, tasks=100, few=10, rounds=2)
    asked.add_argument("--full", action="store_true", help="stock, too, is given all of the tasks")
    return run(asked, measure, f"{{tasks}} tasks in as many new pip envs at once, on Ray {RAY}")


if __name__ == "__main__":
    sys.exit(main())
