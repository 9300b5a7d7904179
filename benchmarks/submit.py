"""What a Ray user waits for a task in a new pip env, beside one of variables alone, and on stock Ray.

``make bench ONLY=submit`` runs it; by hand: ``.venv/bin/python benchmarks/submit.py --rounds 20``. What is
measured from where to where stands in README.md. The exit code is 1 if a measurement was not what it claims
to be or something was left behind.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from drivers import Driver
from figures import Figures, Series, Target
from processes import NodeError
from script import RAY, circumstances, console, installations, parser, run, temporary
from sides import Sides, pip_env

SERIES = {
    "new": Series("a task in a new pip env: ray-envd, submit to result"),
    "there": Series("a task in a pip env that is there: ray-envd"),
    "plain": Series("a task in an env of new variables alone: ray-envd"),
    "new_stock": Series("a task in a new pip env: stock, submit to result"),
    "plain_stock": Series("a task in an env of new variables alone: stock"),
}
RATIOS = {
    "stock_to_new": ("submit to result, new pip env: stock to ray-envd", "new_stock", "new"),
    "new_to_plain": ("submit to result: a new pip env to variables alone, both on ray-envd", "new", "plain"),
    "there_to_plain": ("submit to result: a pip env that is there to variables alone", "there", "plain"),
    "plain_to_stock": ("submit to result, variables alone: ray-envd to stock", "plain", "plain_stock"),
}
TARGETS = {"new_to_plain": Target(most=1.15, of="an env_vars-only task")}


class Bench:
    """Both sides, a driver on each, and what was measured on them."""

    def __init__(self, sides: Sides, package: str, module: str) -> None:
        self.sides, self.env, self.module = sides, pip_env(package), module
        self.ours, self.stock = Driver(sides.ours), Driver(sides.stock)
        self._numbers = itertools.count()

    def new(self) -> float:
        """Seconds of a task whose environment ray-envd has to build."""
        self.sides.evict()
        before = self.sides.daemon.stats().builds
        seconds = self._with_module(self.ours)
        if self.sides.daemon.stats().builds == before:
            raise NodeError("nothing was built: the env was not new")
        return seconds

    def there(self) -> float:
        """Seconds of a task whose environment was built before."""
        before = self.sides.daemon.stats().builds
        seconds = self._with_module(self.ours)
        if self.sides.daemon.stats().builds != before:
            raise NodeError("the env was built anew")
        return seconds

    def new_stock(self) -> float:
        """Seconds of a task whose environment stock has to build; it is gone afterwards."""
        if self.sides.stock_pips():
            raise NodeError("stock kept its environment: the next would not be new")
        seconds = self._with_module(self.stock)
        self.sides.stock_evicted()
        return seconds

    def plain(self) -> float:
        """Seconds of a task in an env of variables alone, on ray-envd."""
        return self._with_variables(self.ours)

    def plain_stock(self) -> float:
        """The same on stock."""
        return self._with_variables(self.stock)

    def _with_module(self, driver: Driver) -> float:
        seconds, has = driver.task(self.env, self.module)
        if not has:
            raise NodeError(f"{self.module} cannot be imported in its env")
        return seconds

    def _with_variables(self, driver: Driver) -> float:
        seconds, has = driver.task({"env_vars": {"NUMBER": str(next(self._numbers))}}, self.module)
        if has:
            raise NodeError(f"{self.module} can be imported where it was not asked for")
        return seconds

    def rounds(self, rounds: int, stock_rounds: int) -> None:
        """Each in turn, beginning with another one in each round; the first of each is not counted."""
        parts: list[Callable[[], float]] = [self.new, self.there, self.plain, self.plain_stock]
        console.print("[dim]the first of each, not counted[/]")
        for part in (*parts, self.new_stock):
            part()
        for number in range(rounds):
            console.print(f"[dim]round {number + 1} of {rounds}[/]")
            # What is there has to come after what is new.
            order = parts if number % 2 else [*parts[2:], *parts[:2]]
            for part in order:
                self._add(part)
            if number * stock_rounds // rounds != (number + 1) * stock_rounds // rounds:
                self._add(self.new_stock)

    def _add(self, part: Callable[[], float]) -> None:
        SERIES[part.__name__].add(part() * 1000)


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with temporary() as short, installations() as installs:
        sides = Sides(short, installs)
        told = circumstances(short, package=arguments.package)
        with sides.running():
            bench = Bench(sides, arguments.package, arguments.module)
            bench.rounds(arguments.rounds, arguments.stock_rounds)
    return Figures(SERIES, RATIOS, told, TARGETS)


def main() -> int:
    """The command."""
    asked = parser(__doc__, rounds=15, stock_rounds=4)
    asked.add_argument("--package", default="cowsay==6.1", help="the pinned package")
    asked.add_argument("--module", default="cowsay", help="what of it can be imported")
    return run(asked, measure, f"A task in a pip env of {{package}} on Ray {RAY}")


if __name__ == "__main__":
    sys.exit(main())
