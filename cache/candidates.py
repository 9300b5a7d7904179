"""In which order objects should go: least worth for each byte that they answer for.

What removing one object frees says too little where files are shared: two envs with a gigabyte in common
free next to nothing each, and would outlive anything. So each answers for what it has alone and for an
equal part of what it shares (the "proportional set size" of proc(5)), but only if all who share it may go;
what uv's cache or a busy object holds as well is not to be had and counts nothing. Once the others are
gone, the last one answers for the whole.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ray_envd.cache.account import Account
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Entry
from ray_envd.cache.sizes import Size
from ray_envd.cache.worth import worth


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object whose turn it is.

    Attributes:
        entry: the object.
        worth: seconds saved per byte, see :mod:`ray_envd.cache.worth`.
    """

    entry: Entry
    worth: float


#: Least worth first, then the oldest; the name settles ties, so that equal input gives an equal order. The
#: last is the place among the entries.
_Rank = tuple[float, float, ObjectKey, int, int]


class Candidates:
    """Objects that may go; each :meth:`pop` takes the next one out. Changes nothing but itself."""

    def __init__(self, entries: Sequence[Entry], account: Account, now: float) -> None:
        """``entries`` may go; ``account`` is of them and all with whom they share."""
        self._entries, self._now = entries, now
        self._sizes = [entry.size for entry in entries]
        self._there = [True] * len(entries)
        self._sharers = _sharers(self._sizes, account)
        self._left = {name: len(places) for name, places in self._sharers.items()}
        self._ranks = [self._rank(place) for place in range(len(entries))]
        #: Those whose turn comes, the next at the end; and those whose rank has fallen since, as a heap.
        self._line = sorted(self._ranks, reverse=True)
        self._fallen = list[_Rank]()

    def pop(self) -> Candidate | None:
        """The object that should go next; None if there is none."""
        while self._line or self._fallen:
            if self._line and not (self._fallen and self._fallen[0] < self._line[-1]):
                rank = self._line.pop()
            else:
                rank = heapq.heappop(self._fallen)
            place = rank[-1]
            if self._there[place] and rank is self._ranks[place]:
                self._there[place] = False
                self._tell_the_last(self._sizes[place])
                return Candidate(self._entries[place], rank[0])
        return None

    def _tell_the_last(self, gone: Size) -> None:
        for unit in gone.units:
            left = self._left.get(unit.id, 0) - 1
            if left < 0:
                continue
            self._left[unit.id] = left
            if left == 1:
                last = next(place for place in self._sharers[unit.id] if self._there[place])
                rank = self._ranks[last] = self._rank(last)
                heapq.heappush(self._fallen, rank)

    def _rank(self, place: int) -> _Rank:
        entry, size, left = self._entries[place], self._sizes[place], self._left
        burden: float = size.private
        for unit in size.units:
            if unit.id in left:
                burden += unit.bytes / left[unit.id]
        return worth(entry, burden, self._now), entry.last_used, entry.key, entry.generation, place


def _sharers(sizes: Sequence[Size], account: Account) -> dict[str, list[int]]:
    """Who has a unit, by places, for those units that go with the last of them."""
    found = defaultdict[str, list[int]](list)
    for place, size in enumerate(sizes):
        for unit in size.units:
            found[unit.id].append(place)
    return {name: places for name, places in found.items() if len(places) == account.holders.get(name)}
