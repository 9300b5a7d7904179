"""A kill of the real daemon at the steps it takes on the disk; what a step is, steps.c says.

A point is a life of the scenario with two deaths: at a step of it, and at a step of the start after that. It
takes seconds, so a seeded sample is tried: as many different steps as can be had, of different kinds.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from shim import Step
from world import World

_AT_ONCE = 3  # each waits much: for a start, for a link's return


def _points(world: World, asked: str, seed: int) -> list[tuple[int, int]]:
    """Steps to die at: of the scenario, and of the start that follows."""
    luck = random.Random(seed)
    start = len(world.start_steps)
    if asked == "all":
        # Two lives are never the same: some are a few steps longer.
        numbers = list(range(1, len(world.steps) + 20))
    else:
        kinds: dict[str, list[int]] = {}
        for step in world.steps:
            kinds.setdefault(step.name, []).append(step.number)
        names = luck.sample(sorted(kinds), min(int(asked), len(kinds)))
        numbers = [luck.choice(kinds[name]) for name in names]
    # The catalog is opened first, in a great many steps that are alike; what comes then has as many deaths.
    recoveries = [
        luck.choice((luck.randint(1, start), luck.randint(start * 2 // 3, start + 30))) for _ in numbers
    ]
    return list(zip(numbers, recoveries, strict=True))


def test_a_kill_at_any_step_of_the_daemon(world: World, pytestconfig: pytest.Config) -> None:
    """Killed at a step and again while it recovers: what was answered is so, nothing is left, all goes on."""
    asked, seed = str(pytestconfig.getoption("crash_points")), int(pytestconfig.getoption("crash_seed"))
    points = _points(world, asked, seed)
    failures, died = [], []

    def live(point: tuple[int, int]) -> list[Step]:
        try:
            return world.kill_at(*point)
        except Exception as error:  # noqa: BLE001 - all points are tried, and all failures shown
            failures.append(f"{point}: {error!r}\n" + "\n".join(getattr(error, "__notes__", ())))
            return []

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for crashes in pool.map(live, points):
            died += crashes
    names = {step.name for step in died}
    missed = {step.name for step in world.steps} - names
    sys.stdout.write(
        f"{len(points)} points, {len(died)} deaths at {len(names)} different steps; not at {len(missed)}:\n"
        + "\n".join(sorted(missed))
    )
    assert not failures, "\n\n".join(failures)
    assert len(died) > len(points)  # most had both deaths
