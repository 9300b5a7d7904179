"""One policy, one workload, one cache size: what is a hit, what is built again, what leaves."""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from items import Item, Workload


class World:
    """What is on the simulated disk. Bytes are counted as on a real one: what items share once."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self.there = dict[Item, None]()
        self.holders = Counter[str]()
        self._users = Counter[Item]()

    def busy(self, item: Item) -> bool:
        """Whether somebody has it."""
        return item in self._users

    def needs(self, item: Item) -> int:
        """The bytes that it would add."""
        units = item.size.units
        return item.size.private + sum(unit.bytes for unit in units if not self.holders[unit.id])

    def add(self, item: Item) -> None:
        """It is built."""
        self.used += self.needs(item)
        self.there[item] = None
        self.holders.update(unit.id for unit in item.size.units)

    def drop(self, item: Item) -> None:
        """It is evicted."""
        if self.busy(item):
            raise ValueError(f"{item.name} is in use")
        del self.there[item]
        self.holders.subtract(unit.id for unit in item.size.units)
        self.used -= self.needs(item)

    def enter(self, item: Item) -> None:
        """One more has it."""
        self._users[item] += 1

    def leave(self, item: Item) -> bool:
        """One less; whether he was the last."""
        self._users[item] -= 1
        if self._users[item]:
            return False
        del self._users[item]
        return True


class Policy(Protocol):
    """Who leaves. It hears of all that happens to items that are stored."""

    def hit(self, item: Item, now: float) -> None:
        """A stored item is wanted."""

    def built(self, item: Item, now: float) -> None:
        """An item was built and stored."""

    def rested(self, item: Item, now: float) -> None:
        """The last who had a stored item has given it back."""

    def make_room(self, world: World, missing: int, now: float, coming: Item | None) -> list[Item]:
        """Items to evict, none of them busy, for at least so many bytes; all that may go if that is too little.

        ``coming`` is what the room is for.
        """


@dataclass
class Outcome:
    """Counts of one replay.

    A request that finds its item in use is a hit under any policy and counts in ``shared`` alone; the other
    figures are of requests that the policy decides, ``first`` ones (nothing could have been kept) included.
    """

    shared: int = 0
    requests: int = 0
    hits: int = 0
    bytes: int = 0
    hit_bytes: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    saved_seconds: float = 0.0
    evictions: int = 0

    @property
    def hit_rate(self) -> float:
        """Requests that needed no build."""
        return self.hits / max(1, self.requests)

    @property
    def byte_hit_rate(self) -> float:
        """The same, by the bytes asked for."""
        return self.hit_bytes / max(1, self.bytes)

    @property
    def possible_seconds(self) -> float:
        """What a cache without a limit saves."""
        return self.seconds - self.first_seconds

    @property
    def saved(self) -> float:
        """Seconds saved, of those that a cache without a limit saves."""
        return self.saved_seconds / self.possible_seconds if self.possible_seconds else 1.0


def replay(workload: Workload, capacity: int, make: Callable[[Workload, int], Policy]) -> Outcome:
    """Runs a workload through a policy's cache of so many bytes.

    Room is made before a build, as the daemon does. If all is in use the store may exceed its capacity, under
    any policy, until something is given back. What alone is larger than the capacity is never stored.
    """
    world, policy, outcome = World(capacity), make(workload, capacity), Outcome()
    ends: list[tuple[float, int, Item]] = []
    seen = set[Item]()

    def shrink(missing: int, now: float, coming: Item | None) -> None:
        if missing > 0:
            for item in policy.make_room(world, missing, now, coming):
                world.drop(item)
                outcome.evictions += 1

    def settle(now: float) -> None:
        while ends and ends[0][0] <= now:
            end, _, item = heapq.heappop(ends)
            if world.leave(item):
                policy.rested(item, end)
                shrink(world.used - capacity, end, None)

    for number, use in enumerate(workload.uses):
        item, now = use.item, use.time
        settle(now)
        if item.size.apparent > capacity:
            _count(outcome, item, seen, hit=False)
            continue
        if world.busy(item):
            outcome.shared += 1
            policy.hit(item, now)
        elif item in world.there:
            _count(outcome, item, seen, hit=True)
            policy.hit(item, now)
        else:
            _count(outcome, item, seen, hit=False)
            shrink(world.used + world.needs(item) - capacity, now, item)
            world.add(item)
            policy.built(item, now)
        world.enter(item)
        heapq.heappush(ends, (now + use.held, number, item))
    return outcome


def _count(outcome: Outcome, item: Item, seen: set[Item], *, hit: bool) -> None:
    outcome.requests += 1
    outcome.bytes += item.size.apparent
    outcome.seconds += item.seconds
    if item not in seen:
        seen.add(item)
        outcome.first_seconds += item.seconds
    if hit:
        outcome.hits += 1
        outcome.hit_bytes += item.size.apparent
        outcome.saved_seconds += item.seconds
