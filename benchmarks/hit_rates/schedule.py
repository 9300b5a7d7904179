"""What can be saved by knowing the future: a lower bound of the best there is, beside the upper one.

The solution of the relaxation (``bound.py``) is rounded: gaps are taken one by one, those first of which it
keeps most, and one is kept if the whole item fits at every moment of it, beside what is in use and what was
taken before. D. Berger et al. bound FOO from below in the same way. Gaps are also taken by seconds saved for
each byte and second, and not at all, which leaves Belady's rule with sizes and costs. Each schedule is
replayed as a policy among the others, by the same rules, so what is told was reached; the best counts.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import numpy as np
from bound import Gap, Relaxed, in_use, span
from items import Item, Workload, episodes
from numpy.typing import NDArray
from peers import OneByOne
from replay import Outcome, World, replay


def best_schedule(workload: Workload, capacity: int, solution: Relaxed) -> Outcome:
    """The best one of three schedules, replayed."""
    seconds = np.array([gap.item.seconds for gap in solution.gaps])
    room = np.array([gap.item.size.apparent * (gap.end - gap.begin) for gap in solution.gaps])
    density = seconds / np.maximum(room, 1.0)
    orders = [np.lexsort((-density, -solution.kept.round(3))), np.argsort(-density)]
    schedules = [_fitting(workload, capacity, [solution.gaps[n] for n in order]) for order in orders]
    found = [replay(workload, capacity, partial(Scheduled, kept=kept)) for kept in (*schedules, [])]
    return max(found, key=lambda outcome: outcome.saved_seconds)


def _fitting(workload: Workload, capacity: int, gaps: list[Gap]) -> list[Gap]:
    """Of these gaps, in this order, those that fit in whole."""
    found = [each for each in episodes(workload.uses) if each.item.size.apparent <= capacity]
    moments = np.unique([each.begin for each in found])
    free, there = in_use(found, moments, capacity)
    kept = list[Gap]()
    for gap in gaps:
        during = span(moments, gap.begin, gap.end)
        charged: NDArray[np.float64] = np.full(during.stop - during.start, float(gap.item.size.private))
        for unit in gap.item.size.units:
            charged += unit.bytes * ~there[unit.id][during]
        if (charged <= free[during]).all():
            free[during] -= charged
            for unit in gap.item.size.units:
                there[unit.id][during] = True
            kept.append(gap)
    return kept


class Scheduled(OneByOne):
    """Keeps what a schedule says; of the rest those go first that save least for each byte and second."""

    def __init__(self, workload: Workload, capacity: int, kept: list[Gap]) -> None:
        super().__init__(workload, capacity)
        self._kept = defaultdict[Item, list[tuple[float, float]]](list)
        for gap in kept:
            self._kept[gap.item].append((gap.begin, gap.end))
        self._begins = defaultdict[Item, list[float]](list)
        for each in episodes(workload.uses):
            self._begins[each.item].append(each.begin)
        self._now = 0.0

    def make_room(self, world: World, missing: int, now: float, coming: Item | None) -> list[Item]:
        """Remembers the time."""
        self._now = now
        return super().make_room(world, missing, now, coming)

    def victims(self, world: World) -> Iterator[Item]:
        """What is to be kept now comes last: only if what is in use leaves no room for it."""
        free = (item for item in world.there if not world.busy(item))
        return iter(sorted(free, key=lambda item: (self._is_kept(item), self._density(item))))

    def _is_kept(self, item: Item) -> bool:
        return any(begin <= self._now <= end for begin, end in self._kept[item])

    def _density(self, item: Item) -> float:
        begins = self._begins[item]
        later = bisect_left(begins, self._now)
        if later == len(begins):
            return 0.0
        return item.seconds / max(1.0, item.size.apparent * (begins[later] - self._now))
