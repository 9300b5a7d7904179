"""Deaths of the real daemon at the steps it takes on the disk; what a step is, steps.c says.

A point is a life of the scenario with two deaths: at a step of it, and at a step of the start after that. It
takes seconds, so a seeded sample is tried: as many different steps as can be had, of different kinds.
"""

import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from shim import Step
from world import World

pytestmark = pytest.mark.slow


_AT_ONCE = 3  # each waits much: for a start, for a link's return
#: Of so many points with a kill, one with a loss of power.
_POWER = 4

Point = tuple[int, int]


def _points(world: World, asked: str, seed: int, part: int = 1) -> list[Point]:
    """Steps to die at: of the scenario, and of the start that follows; one in ``part`` of those asked for."""
    luck = random.Random(seed)
    start = len(world.start_steps)
    if asked == "all":
        # Two lives are never the same: some are a few steps longer.
        numbers = list(range(1, len(world.steps) + 20, part))
    else:
        kinds: dict[str, list[int]] = {}
        for step in world.steps:
            kinds.setdefault(step.name, []).append(step.number)
        names = luck.sample(sorted(kinds), min(int(asked) // part, len(kinds)))
        numbers = [luck.choice(kinds[name]) for name in names]
    # The catalog is opened first, in a great many steps that are alike; what comes then has as many deaths.
    recoveries = [
        luck.choice((luck.randint(1, start), luck.randint(start // 2, start + 30))) for _ in numbers
    ]
    return list(zip(numbers, recoveries, strict=True))


def _live(world: World, points: list[Point], life: Callable[[int, int], list[Step]]) -> list[Step]:
    """All these lives; returns the steps they ended at, and fails in the end if one broke a promise."""
    failures, died = [], []

    def attempt(point: Point) -> list[Step]:
        try:
            return life(*point)
        except Exception as error:  # noqa: BLE001 - all points are tried, and all failures shown
            failures.append(f"{point}: {error!r}\n" + "\n".join(getattr(error, "__notes__", ())))
            sys.stdout.write(f"{failures[-1]}\n")
            return []

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, crashes in enumerate(pool.map(attempt, points), 1):
            died += crashes
            if not number % 50:
                sys.stdout.write(f"{number} points of {len(points)}, {len(failures)} failures\n")
    names = {step.name for step in died}
    missed = {step.name for step in world.steps} - names
    sys.stdout.write(
        f"{len(points)} points, {len(died)} deaths at {len(names)} different steps; not at {len(missed)}:\n"
        + "".join(f"{name}\n" for name in sorted(missed))
    )
    assert not failures, "\n\n".join(failures)
    return died


def _asked(config: pytest.Config) -> tuple[str, int]:
    return str(config.getoption("crash_points")), int(config.getoption("crash_seed"))


def test_a_kill_at_any_step(world: World, pytestconfig: pytest.Config) -> None:
    """Killed at a step and again while it recovers: what was answered is so, nothing is left, all goes on."""
    points = _points(world, *_asked(pytestconfig))
    assert len(_live(world, points, world.kill_at)) > len(points)  # most had both deaths


def test_a_loss_of_power_at_any_step(world: World, loop_device: None, pytestconfig: pytest.Config) -> None:
    """At a step and again while it recovers: what is handed out after it is whole, the rest is made anew."""
    points = _points(world, *_asked(pytestconfig), _POWER)
    assert len(_live(world, points, world.lose_power_at)) > len(points)


def test_a_loss_of_power_at_the_first_step(world: World, loop_device: None) -> None:
    """When not even the store's folder is there."""
    assert world.lose_power_at(1, 50)
