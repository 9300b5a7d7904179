"""What can be saved by knowing the future: a lower bound of the best there is, beside the upper one.

The solution that the solver found (``bound.py``) is replayed as a policy among the others, by the same rules,
and so is Belady's rule with sizes and costs, which is better where the solver had too little time. What is
told was reached; the better one counts.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial

from bound import Gap
from items import Item, Workload, episodes
from peers import OneByOne
from replay import Outcome, World, replay


def best_schedule(workload: Workload, capacity: int, kept: list[Gap]) -> Outcome:
    """What is saved by keeping these gaps, and the rest while there is room; or by Belady's rule, if more."""
    found = [replay(workload, capacity, partial(Scheduled, kept=gaps)) for gaps in (kept, [])]
    return max(found, key=lambda outcome: outcome.saved_seconds)


class Scheduled(OneByOne):
    """Keeps what a schedule says; of the rest those go first that save least for each byte and second."""

    def __init__(self, workload: Workload, capacity: int, kept: Iterable[Gap]) -> None:
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
