"""What a replay is made of: objects that exist on paper, and who wants them when."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ray_envd.cache.sizes import Size

DAY = 86400.0
HOUR = 3600.0
#: Where simulated time begins (unix seconds): midnight, a Monday.
START = 1_800_000_000.0 - 1_800_000_000.0 % (7 * DAY) + 4 * DAY


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """An object that can be built at any time.

    Attributes:
        name: unique in its workload.
        kind: the store's word for what it is (``python``, ``archive``).
        size: what it weighs; units that several items have are on disk once.
        seconds: what it takes to make, downloads included.
        fetched: bytes of these downloads.
    """

    name: str
    kind: str
    size: Size
    seconds: float
    fetched: int = 0

    @property
    def digest(self) -> str:
        """A name as objects have it; the same in each run."""
        return hashlib.sha256(self.name.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Use:
    """Somebody wants an item, and has it for a while.

    Attributes:
        time: unix seconds.
        item: what.
        held: seconds until he gives it back; while anybody has it, it cannot be evicted.
    """

    time: float
    item: Item
    held: float


@dataclass(frozen=True)
class Workload:
    """A named sequence of uses, by time."""

    name: str
    about: str
    uses: list[Use] = field(repr=False)

    @property
    def items(self) -> list[Item]:
        """Each item once, in the order of the first use."""
        return list({use.item: None for use in self.uses})

    @property
    def working_set(self) -> int:
        """The bytes of all items that are wanted more than once: what an unlimited cache has a use for."""
        seen = dict[Item, int]()
        for use in self.uses:
            seen[use.item] = seen.get(use.item, 0) + 1
        return together(item for item, uses in seen.items() if uses > 1)


def workload(name: str, about: str, uses: Iterable[Use]) -> Workload:
    """A workload of uses in any order."""
    return Workload(name, about, sorted(uses, key=lambda use: use.time))


def together(items: Iterable[Item]) -> int:
    """The bytes of items on one disk: shared units once."""
    private, units = 0, dict[str, int]()
    for item in items:
        private += item.size.private
        units.update((unit.id, unit.bytes) for unit in item.size.units)
    return private + sum(units.values())


@dataclass(frozen=True, slots=True)
class Episode:
    """From the moment that an item is wanted while nobody has it, until nobody has it any more."""

    item: Item
    begin: float
    end: float


def episodes(uses: Iterable[Use]) -> Iterator[Episode]:
    """The times in which items are in use, by their ends; uses of one item that overlap are one episode."""
    open_: dict[Item, tuple[float, float]] = {}
    found = list[Episode]()
    for use in uses:
        span = open_.get(use.item)
        if span is not None and use.time < span[1]:
            open_[use.item] = span[0], max(span[1], use.time + use.held)
            continue
        if span is not None:
            found.append(Episode(use.item, *span))
        open_[use.item] = use.time, use.time + use.held
    found += [Episode(item, *span) for item, span in open_.items()]
    return iter(sorted(found, key=lambda each: each.begin))
