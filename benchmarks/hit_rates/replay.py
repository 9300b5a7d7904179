"""One policy, one workload, one cache size: what is a hit, what is built again, what leaves."""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from items import Item, Use, Workload


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
    """Who leaves. It hears of all that happens to items that are stored.

    Attributes:
        eager: it is also asked while there is room (``missing`` is not positive then): whenever something was
            built or given back.
    """

    eager: bool

    def hit(self, item: Item, now: float) -> None:
        """A stored item is wanted."""

    def built(self, item: Item, now: float) -> None:
        """An item was built and stored."""

    def rested(self, item: Item, now: float) -> None:
        """The last who had a stored item has given it back."""

    def make_room(self, world: World, missing: int, now: float, coming: Item | None) -> list[Item]:
        """Items to evict, none of them busy, of at least so many bytes; or else all that may go.

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
    run = _Run(World(capacity), make(workload, capacity))
    for use in workload.uses:
        run.settle(use.time)
        run.take(use)
    return run.outcome


class _Run:
    """A replay under way."""

    def __init__(self, world: World, policy: Policy) -> None:
        self.outcome = Outcome()
        self._world, self._policy = world, policy
        self._ends: list[tuple[float, int, Item]] = []
        self._taken = 0
        self._seen = set[Item]()

    def settle(self, now: float) -> None:
        """What was given back until now."""
        while self._ends and self._ends[0][0] <= now:
            end, _, item = heapq.heappop(self._ends)
            if self._world.leave(item):
                self._policy.rested(item, end)
                self._shrink(0, end, None)

    def take(self, use: Use) -> None:
        """One use begins."""
        world, item, now = self._world, use.item, use.time
        if item.size.apparent > world.capacity:
            self._count(item, hit=False)
            return
        if item not in world.there:
            self._count(item, hit=False)
            self._shrink(world.needs(item), now, item)
            world.add(item)
            self._policy.built(item, now)
        else:
            if world.busy(item):
                self.outcome.shared += 1
            else:
                self._count(item, hit=True)
            self._policy.hit(item, now)
        world.enter(item)
        self._shrink(0, now, None)
        self._taken += 1
        heapq.heappush(self._ends, (now + use.held, self._taken, item))

    def _shrink(self, needed: int, now: float, coming: Item | None) -> None:
        missing = self._world.used + needed - self._world.capacity
        if missing > 0 or (self._policy.eager and coming is None):
            for item in self._policy.make_room(self._world, missing, now, coming):
                self._world.drop(item)
                self.outcome.evictions += 1

    def _count(self, item: Item, *, hit: bool) -> None:
        outcome = self.outcome
        outcome.requests += 1
        outcome.bytes += item.size.apparent
        outcome.seconds += item.seconds
        if item not in self._seen:
            self._seen.add(item)
            outcome.first_seconds += item.seconds
        if hit:
            outcome.hits += 1
            outcome.hit_bytes += item.size.apparent
            outcome.saved_seconds += item.seconds
