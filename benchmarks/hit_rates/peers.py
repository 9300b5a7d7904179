"""What others do: stock Ray's rule, LRU, LFU and GreedyDual-Size-Frequency."""

from collections.abc import Iterator

from items import Item, Workload, together
from replay import World


class OneByOne:
    """A policy that names one victim after the other; those in use are passed over."""

    eager = False

    def __init__(self, workload: Workload, capacity: int) -> None:
        self.workload, self.capacity = workload, capacity

    def make_room(self, world: World, missing: int, _now: float, _coming: Item | None) -> list[Item]:
        """Takes victims until there is room."""
        gone = list[Item]()
        holders = dict[str, int]()
        for item in self.victims(world):
            if missing <= 0:
                break
            missing -= _freed(world, item, holders)
            gone.append(item)
        for item in gone:
            self.evicted(item)
        return gone

    def victims(self, world: World) -> Iterator[Item]:
        """Free items, in the order in which they should go."""
        raise NotImplementedError

    def evicted(self, item: Item) -> None:
        """It is gone."""

    def hit(self, item: Item, now: float) -> None:
        """Most that is to be heard."""

    def built(self, item: Item, now: float) -> None:
        """And this."""

    def rested(self, item: Item, now: float) -> None:
        """Textbook policies know no end of use."""


def _freed(world: World, item: Item, holders: dict[str, int]) -> int:
    """What the next victim frees; ``holders`` remembers those before it."""
    freed = item.size.private
    for unit in item.size.units:
        left = holders[unit.id] = holders.get(unit.id, world.holders[unit.id]) - 1
        freed += 0 if left else unit.bytes
    return freed


class Lru(OneByOne):
    """Least recently used first."""

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        self._line = dict[Item, None]()

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """To the end of the line."""
        self._line.pop(item, None)
        self._line[item] = None

    built = hit

    def victims(self, world: World) -> Iterator[Item]:
        """From the front."""
        return (item for item in list(self._line) if not world.busy(item))

    def evicted(self, item: Item) -> None:
        """Out of the line."""
        del self._line[item]


class Lfu(OneByOne):
    """Least often used since it was built first; of equals the least recently used."""

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        self._counts = dict[Item, tuple[int, int]]()
        self._clock = 0

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """One more."""
        self._clock += 1
        self._counts[item] = self._counts.get(item, (0, 0))[0] + 1, self._clock

    built = hit

    def victims(self, world: World) -> Iterator[Item]:
        """By count."""
        return iter(
            sorted((item for item in self._counts if not world.busy(item)), key=self._counts.__getitem__)
        )

    def evicted(self, item: Item) -> None:
        """Its count is forgotten."""
        del self._counts[item]


class Gdsf(OneByOne):
    """GreedyDual-Size-Frequency (Cherkasova 1998): clock + uses x cost / size; a victim's is the clock."""

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        self._clock = 0.0
        self._uses = dict[Item, int]()
        self._priority = dict[Item, float]()

    def hit(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """Its priority as of now."""
        self._uses[item] = self._uses.get(item, 0) + 1
        worth = self._uses[item] * item.seconds / max(1, item.size.apparent)
        self._priority[item] = self._clock + worth

    built = hit

    def victims(self, world: World) -> Iterator[Item]:
        """By priority."""
        free = (item for item in self._priority if not world.busy(item))
        return iter(sorted(free, key=self._priority.__getitem__))

    def evicted(self, item: Item) -> None:
        """The clock goes on."""
        self._clock = max(self._clock, self._priority.pop(item))
        del self._uses[item]


class Stock(OneByOne):
    """Ray 2.60.0's ``URICache``: arbitrary unreferenced URIs of the field whose own limit is passed.

    What it takes is what CPython's set yields first; a set of the digests does the same here. Fields have
    their limits; each gets its part of the working set, which is the kindest division that is fixed.
    """

    def __init__(self, workload: Workload, capacity: int) -> None:
        super().__init__(workload, capacity)
        items = workload.items
        kinds = {item.kind for item in items}
        shares = {kind: together(item for item in items if item.kind == kind) for kind in kinds}
        whole = sum(shares.values())
        self._limits = {kind: capacity * share / whole for kind, share in shares.items()}
        self._stored = {kind: dict[Item, None]() for kind in kinds}

    def built(self, item: Item, now: float) -> None:  # noqa: ARG002 - the Protocol's
        """Joins its field."""
        self._stored[item.kind][item] = None

    def make_room(self, world: World, missing: int, _now: float, coming: Item | None) -> list[Item]:
        """Each field comes down to its limit, with what comes; then, if the disk asks for more, any."""
        gone = list[Item]()
        holders = dict[str, int]()
        for kind, stored in self._stored.items():
            excess = together(stored) - self._limits[kind]
            excess += world.needs(coming) if coming is not None and coming.kind == kind else 0
            for item in _arbitrary(each for each in stored if not world.busy(each)):
                if excess <= 0:
                    break
                freed = _freed(world, item, holders)
                excess, missing = excess - freed, missing - freed
                gone.append(item)
        rest = (each for each in world.there if not world.busy(each) and each not in set(gone))
        for item in _arbitrary(rest):
            if missing <= 0:
                break
            missing -= _freed(world, item, holders)
            gone.append(item)
        for item in gone:
            del self._stored[item.kind][item]
        return gone


def _arbitrary(items: Iterator[Item]) -> Iterator[Item]:
    by_hash = {int(item.digest[:15], 16): item for item in items}
    return iter([by_hash[number] for number in set(by_hash)])
