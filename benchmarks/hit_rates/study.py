"""All policies on all workloads at all sizes, in as many processes as there are cores."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, field
from typing import Any, TextIO

from bound import optimum
from density import Hyperbolic, Lhd
from items import Workload
from ours import Ours, OursWithWatermarks
from peers import Gdsf, Lfu, Lru, Stock
from queues import S3Fifo, WTinyLfu
from replay import Outcome, replay
from schedule import best_schedule

#: Cache sizes, as parts of the working set.
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
OURS = "ray-envd"
PEERS = {
    "stock": Stock,
    "LRU": Lru,
    "LFU": Lfu,
    "GDSF": Gdsf,
    "Hyperbolic": Hyperbolic,
    "LHD": Lhd,
    "S3-FIFO": S3Fifo,
    "W-TinyLFU": WTinyLfu,
}
POLICIES = {OURS: Ours, "ray-envd, default watermarks": OursWithWatermarks, **PEERS}


@dataclass(frozen=True)
class Point:
    """One workload at one cache size.

    Attributes:
        workload: its name.
        fraction: of its working set.
        capacity: the same in bytes; of several seeds their sum, as all figures are.
        outcomes: by policy.
        bound: seconds that no policy can save more of.
        schedule: what was reached by knowing the future.
    """

    workload: str
    fraction: float
    capacity: int
    outcomes: dict[str, Outcome]
    bound: float
    schedule: Outcome

    @property
    def best_peer(self) -> str:
        """Who beside ours saves most."""
        return max(PEERS, key=lambda name: self.outcomes[name].saved_seconds)


@dataclass
class Study:
    """What was found; points by workload and then by size."""

    workloads: list[Workload]
    points: list[Point]
    circumstances: dict[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, Workload]:
        """One workload of each name, the first seed's."""
        first = dict[str, Workload]()
        for each in self.workloads:
            first.setdefault(each.name, each)
        return first

    def of(self, workload: str) -> list[Point]:
        """The points of one workload."""
        return [each for each in self.points if each.workload == workload]


def study(workloads: Sequence[Workload], fractions: Sequence[float], log: TextIO) -> Study:
    """Runs everything; a line of progress for each point."""
    tasks = [(workload, fraction) for workload in workloads for fraction in fractions]
    points = dict[tuple[str, float], Point]()
    # What the solver prints goes where progress goes.
    with ProcessPoolExecutor(os.cpu_count(), initializer=os.dup2, initargs=(2, 1)) as pool:
        for point in pool.map(_point, *zip(*tasks, strict=True)):
            print(f"{point.workload}: {point.fraction:.0%} of the working set", file=log)
            name = point.workload, point.fraction
            points[name] = _sum(points[name], point) if name in points else point
    return Study(list(workloads), list(points.values()))


def _sum(one: Point, other: Point) -> Point:
    """The same workload of two seeds."""
    outcomes = {name: _added(outcome, other.outcomes[name]) for name, outcome in one.outcomes.items()}
    capacity, bound = one.capacity + other.capacity, one.bound + other.bound
    schedule = _added(one.schedule, other.schedule)
    return Point(one.workload, one.fraction, capacity, outcomes, bound, schedule)


def _added(one: Outcome, other: Outcome) -> Outcome:
    return Outcome(*(mine + yours for mine, yours in zip(astuple(one), astuple(other), strict=True)))


def _point(workload: Workload, fraction: float) -> Point:
    capacity = int(workload.working_set * fraction)
    outcomes = {name: replay(workload, capacity, policy) for name, policy in POLICIES.items()}
    bound = optimum(workload, capacity)
    schedule = best_schedule(workload, capacity, bound.kept)
    return Point(workload.name, fraction, capacity, outcomes, bound.seconds, schedule)
