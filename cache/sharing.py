"""Which objects share which files, kept up to date as objects come and go. Behind the table's lock."""

from collections.abc import Mapping

from ray_envd.cache.ledger import Ledger, Share
from ray_envd.cache.records import Object
from ray_envd.cache.sizes import Unit


class _Shared:
    """A unit and those who have it."""

    __slots__ = ("bytes", "foreign", "holders", "is_layer", "links")

    def __init__(self, unit: Unit) -> None:
        # Until somebody is asked, others are taken to have it: nothing is collected on a guess.
        self.bytes, self.is_layer = unit.bytes, not unit.sample
        self.foreign, self.links = self.is_layer, 0 if self.is_layer else 1
        self.holders: list[Object] = []

    @property
    def outside(self) -> bool:
        """Each holder has each file once; who has further links is not one of the store's objects."""
        return not self.is_layer and self.links > len(self.holders)


class Sharing:
    """The sizes of objects, added up.

    Attributes:
        total: bytes on disk of all objects: each file once, those that uv's cache or others have as well not.
    """

    def __init__(self) -> None:
        self.total = 0
        self._private = 0
        self._units: dict[str, _Shared] = {}

    def add(self, each: Object) -> None:
        """An object is there, or has another size than before."""
        size = each.facts.size
        self._private += size.private
        self.total += size.private
        for unit in size.units:
            shared = self._units.get(unit.id)
            if shared is None:
                shared = self._units[unit.id] = _Shared(unit)
            self.total -= _counted(shared)
            shared.holders.append(each)
            shared.links += 1
            self.total += _counted(shared)

    def drop(self, each: Object) -> None:
        """An object is gone, files and all."""
        size = each.facts.size
        self._private -= size.private
        self.total -= size.private
        for unit in size.units:
            shared = self._units[unit.id]
            self.total -= _counted(shared)
            shared.holders.remove(each)
            shared.links -= 1
            if shared.holders:
                self.total += _counted(shared)
            else:
                del self._units[unit.id]

    def note_links(self, links: Mapping[str, int]) -> None:
        """Takes in how many links the files of units have now, by the units' ids."""
        for name, number in links.items():
            shared = self._units.get(name)
            if shared is not None:
                self.total -= _counted(shared)
                shared.links = number
                self.total += _counted(shared)

    def note_foreign(self, foreign: Mapping[str, bool]) -> None:
        """Takes in whether others have what stands outside of the store, by the units' ids."""
        for name, theirs in foreign.items():
            shared = self._units.get(name)
            if shared is not None:
                self.total -= _counted(shared)
                shared.foreign = theirs
                self.total += _counted(shared)

    def samples(self) -> list[tuple[str, Object, str]]:
        """Of each unit of files its id, an object that has it, and a file of it there."""
        found = ((name, shared.holders[0], _sample(name, shared)) for name, shared in self._units.items())
        return [(name, each, sample) for name, each, sample in found if sample]

    def ledger(self) -> Ledger:
        """All of it, as a value."""
        shares = {
            name: Share(shared.bytes, len(shared.holders), shared.outside, shared.foreign, shared.is_layer)
            for name, shared in self._units.items()
        }
        return Ledger(self._private, shares)


def _counted(shared: _Shared) -> int:
    """What a unit adds to the total."""
    return 0 if shared.outside or shared.foreign or not shared.holders else shared.bytes


def _sample(name: str, shared: _Shared) -> str:
    return next(unit.sample for unit in shared.holders[0].facts.size.units if unit.id == name)
