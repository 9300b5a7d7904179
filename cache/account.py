"""Bytes of objects that share files, added up anew as objects go one by one."""

from collections import Counter
from collections.abc import Iterable
from typing import Self

from ray_envd.cache.ledger import Ledger
from ray_envd.cache.records import Entry


class Account:
    """The bytes of a set of objects: each file once, and those that uv's cache has as well not at all.

    Attributes:
        bytes: of what is still there.
        holders: by the id of a unit of shared files, how many objects still have it; units that no removal of
            objects frees are missing.
    """

    def __init__(self, size: int, holders: dict[str, int]) -> None:
        self.bytes, self.holders = size, holders

    @classmethod
    def of_all(cls, ledger: Ledger, extra_bytes: int) -> Self:
        """The account of all objects, and of bytes that are no objects."""
        holders = {name: share.holders for name, share in ledger.shares.items() if share.is_ours}
        return cls(ledger.total + extra_bytes, holders)

    @classmethod
    def of_some(cls, entries: Iterable[Entry], ledger: Ledger) -> Self:
        """The account of these objects; what they share with others counts in full."""
        private, holders = 0, Counter[str]()
        sizes = dict[str, int]()
        for entry in entries:
            private += entry.size.private
            for unit in entry.size.units:
                share = ledger.shares.get(unit.id)
                if share is not None and share.is_ours:
                    holders[unit.id] += 1
                    sizes[unit.id] = unit.bytes
        return cls(private + sum(sizes.values()), dict(holders))

    def take(self, entry: Entry) -> int:
        """Takes an object out; returns the bytes that this frees."""
        freed = entry.size.private
        for unit in entry.size.units:
            left = self.holders.get(unit.id)
            if left:
                self.holders[unit.id] = left - 1
                if left == 1:
                    freed += unit.bytes
        self.bytes -= freed
        return freed

    def price(self, entry: Entry) -> int:
        """The bytes that come back with an object which was taken out."""
        return entry.size.private + sum(
            unit.bytes for unit in entry.size.units if self.holders.get(unit.id) == 0
        )

    def put_back(self, entry: Entry) -> None:
        """Undoes :meth:`take`."""
        self.bytes += self.price(entry)
        for unit in entry.size.units:
            if unit.id in self.holders:
                self.holders[unit.id] += 1
