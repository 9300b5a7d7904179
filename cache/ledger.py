"""Who shares what: the arithmetic of sizes in a store where files are linked and not copied. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_envd.cache.sizes import Size


@dataclass(frozen=True, slots=True)
class Share:
    """One unit of shared files.

    Attributes:
        bytes: on disk, once.
        holders: how many objects have it.
        outside: whether uv's cache has it as well, so that no removal of objects frees it.
        foreign: whether somebody has it who will not give it up for us: an image that we did not pull.
        is_layer: whether it stands outside of the store.
    """

    bytes: int
    holders: int
    outside: bool
    foreign: bool = False
    is_layer: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it goes with the last object that has it."""
        return not (self.outside or self.foreign)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The sizes of all objects together, as they were when asked for.

    Attributes:
        private: bytes that belong to one object each, of all of them.
        shares: every unit, by its id.
    """

    private: int
    shares: Mapping[str, Share]

    @property
    def total(self) -> int:
        """Bytes on disk of all objects: each file once, those of uv's cache not (it is counted by itself)."""
        return self.private + sum(share.bytes for share in self.shares.values() if share.is_ours)

    @property
    def beyond(self) -> int:
        """What of :attr:`total` stands outside of the store: layers of images."""
        return sum(share.bytes for share in self.shares.values() if share.is_ours and share.is_layer)

    @property
    def outside(self) -> int:
        """Bytes that objects share with uv's cache."""
        return sum(share.bytes for share in self.shares.values() if share.outside)

    def without_outside(self) -> "Ledger":
        """The sizes once uv's cache has given up what it shares with objects: then their removal frees it."""
        return Ledger(
            self.private, {name: replace(share, outside=False) for name, share in self.shares.items()}
        )

    def exclusive(self, size: Size) -> int:
        """What removing an object of this size would free: what it has and nobody else."""
        return size.private + sum(unit.bytes for unit in size.units if self._only_one(unit.id))

    def _only_one(self, unit: str) -> bool:
        share = self.shares.get(unit)
        return share is not None and share.holders == 1 and share.is_ours
