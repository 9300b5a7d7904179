"""What is done about a damaged object: its packages leave uv's cache, it leaves service, kin is looked at.

Files of an environment are hard links to files of uv's cache where the file system cannot share blocks.
Written in place, such a file has changed in uv's cache and in every other environment that has it: so the
packages go from the cache before anything is built anew, and the others are compared with their manifests.
"""

import logging
from collections.abc import Iterable

from ray_envd.agent.errors import EnvError
from ray_envd.agent.integrity.inspection import take_inventory
from ray_envd.agent.integrity.purge import forget_packages
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import NotFoundError
from ray_envd.cache.manifest import Change, Comparison, Difference, Manifest
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Entry

_log = logging.getLogger(__name__)
_NAMED = 3  # files, in a reason


class Damage:
    """Compares objects with their manifests, and takes damaged ones out of service."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    async def compare(self, entry: Entry, *, digests: bool) -> Comparison | None:
        """What has changed in a sealed object; None if nobody wrote down what it was.

        The caller holds the object. A quick look that finds something is followed by a thorough one, since
        touching a file does not damage it.

        Raises:
            EnvError: it cannot be looked at.
        """
        manifest = await self.manifest(entry)
        if manifest is None:
            return None
        owner = await self._owner(entry)
        found = manifest.compare(await take_inventory(entry.path, owner, digests=digests))
        if found.differences and not digests:
            found = manifest.compare(await take_inventory(entry.path, owner, digests=True))
        return found

    async def condemn(self, entry: Entry, differences: Iterable[Difference]) -> str:
        """Takes an object out of service for what was found; returns the reason.

        Raises:
            EnvError: uv's cache cannot be cleaned; the object is out of service all the same.
            OSError: the disk.
        """
        found = tuple(differences)
        reason = reason_of(found)
        shared = [each for each in found if each.is_shared]
        try:
            if shared:
                await self._purge(entry, shared)
        finally:
            await self._condemn(entry, reason)
        if shared:
            await self._examine_kin(entry, shared)
        return reason

    async def suspect(self, entry: Entry, reason: str) -> tuple[Difference, ...]:
        """Takes an object out of service that a guard found wanting; returns what else has changed.

        The caller holds it.

        Raises:
            OSError: the disk.
        """
        try:
            found = await self.compare(entry, digests=False)
        except EnvError as error:
            _log.warning("%s: %s", entry.id, error)
            found = None
        if found is None or not found.differences:
            await self._condemn(entry, reason)
            return ()
        try:
            await self.condemn(entry, found.differences)
        except EnvError as error:
            _log.warning("%s: %s", entry.id, error)
        return found.differences

    async def _condemn(self, entry: Entry, reason: str) -> None:
        try:
            await self._workshop.thread(self._workshop.store.condemn, entry.key, reason, entry.generation)
        except NotFoundError:
            return  # it has left, or somebody else was quicker
        _log.warning("%s of uid %d (%s) is damaged: %s", entry.id, entry.key.owner, entry.summary, reason)
        self._workshop.metrics.builds.damaged.labels(entry.key.kind).inc()

    async def _examine_kin(self, entry: Entry, shared: Iterable[Difference]) -> None:
        """Looks at the environments that have the same files."""
        store, owner = self._workshop.store, await self._owner(entry)
        units = {unit.id for unit in entry.size.units}
        for other in store.entries():
            if other.damaged or not units.intersection(unit.id for unit in other.size.units):
                continue
            if (held := store.keep(other.key)) is None:
                continue
            try:
                # Not by its manifest: what was sealed after the damage was done has the damage in there.
                found = await take_inventory(held.path, owner, digests=True)
                now = {each.path: each.content for each in found}
                same = [each for each in shared if now.get(each.path) == each.content]
                if same:
                    await self._condemn(held, reason_of(same))
            finally:
                store.unhold(held.key, held.generation)

    async def _purge(self, entry: Entry, shared: Iterable[Difference]) -> None:
        """Drops the packages of these files from uv's cache; all of the environment's if one is unknown."""
        names = {each.package for each in shared}
        if "" in names:
            names |= {str(pin[0]) for pin in entry.details.get("pins", ())}
        names.discard("")
        if names:
            owner, store = await self._owner(entry), self._workshop.store
            await forget_packages(sorted(names), store.layout.user(owner.uid).uv_cache, owner)
            await self._workshop.thread(store.refresh_units)

    async def manifest(self, entry: Entry) -> Manifest | None:
        """What an object was when it was sealed; None if nobody wrote it down."""
        store = self._workshop.store
        return await self._workshop.thread(store.manifests.read, entry.key, entry.generation, entry.created)

    async def _owner(self, entry: Entry) -> Owner:
        return await self._workshop.thread(self._workshop.store.layout.owner, entry.key.owner)


def reason_of(differences: Iterable[Difference]) -> str:
    """What was found, in one line for people."""
    found = list({each.path: each for each in differences}.values())
    named = [f"{each.path} {_WORDS[each.change]}" for each in found[:_NAMED]]
    more = len(found) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


_WORDS = {Change.CHANGED: "has changed", Change.MISSING: "is missing", Change.ADDED: "was added"}
