"""Environments that have the same wheels: what one has compiled others link, as they do the wheels' files.

So a second environment takes folders, hardly any more, and no time to compile. The wheels' files must be the
same inodes, which only environments of one user have. An environment over an image neither gives nor takes:
its modules are compiled inside of a container, where the others are not to be seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ray_envd.cache.inventory import Found
from ray_envd.cache.manifest import Change, Difference
from ray_envd.cache.store import Entry, Store

_COMPILED = ".pyc"


class Donors:
    """The environments from which one that is being sealed may link compiled modules; held in the block."""

    def __init__(self, store: Store, entry: Entry) -> None:
        self._store, self._entry = store, entry
        self._held: list[Entry] = []

    async def __aenter__(self) -> Self:
        for entry in _fewest(self._entry, self._store.entries()):
            held = self._store.keep(entry.key)
            if held is not None:
                self._held.append(held)
        return self

    async def __aexit__(self, *_error: object) -> None:
        for held in self._held:
            self._store.unhold(held.key, held.generation)

    @property
    def site_packages(self) -> Sequence[Path]:
        """Where their packages are."""
        return [Path(str(held.details["site_packages"])) for held in self._held]

    def untrue(self, found: Sequence[Found]) -> list[tuple[Entry, list[Difference]]]:
        """Donors whose compiled modules are not what was written down of them, as this inventory shows.

        Without this the damage of one would be what the next one's manifest says. Blocking.
        """
        linked = [each for each in found if each.path.endswith(_COMPILED) and each.links > 1]
        told = []
        for held in self._held:
            manifest = self._store.manifests.read(held.key, held.generation, held.created)
            before = {} if manifest is None else manifest.files
            wrong = [
                Difference(each.path, Change.CHANGED, is_shared=True, content=each.content)
                for each in linked
                if (known := before.get(each.path)) is not None
                and (known.mtime_ns, known.size) == (each.mtime_ns, each.size)
                and known.content != each.content
            ]
            if wrong:
                told.append((held, wrong))
        return told


def _fewest(entry: Entry, others: Sequence[Entry]) -> list[Entry]:
    """Of those that are complete as many as it takes to have what any of them shares with this one."""
    if "image" in entry.details or "site_packages" not in entry.details:
        return []
    missing = {unit.id for unit in entry.size.units}
    chosen = []
    can = (each for each in others if each.key.owner == entry.key.owner and each.key != entry.key)
    for other in sorted(
        (each for each in can if _gives(each)), key=lambda each: each.last_used, reverse=True
    ):
        shared = missing.intersection(unit.id for unit in other.size.units)
        if shared and other.key != entry.key:
            chosen.append(other)
            missing -= shared
    return chosen


def _gives(entry: Entry) -> bool:
    complete = entry.facts.sealed and not entry.damaged
    return complete and "site_packages" in entry.details and "image" not in entry.details
