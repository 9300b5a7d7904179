"""Reading every file of what is stored, because somebody asked."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from ray_envd.agent.errors import EnvError
from ray_envd.agent.integrity.damage import Damage
from ray_envd.agent.integrity.sealing import Sealer
from ray_envd.agent.integrity.steps import Steps
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import InUseError, NotFoundError, StoreError
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry

#: Objects read at the same time: their children give way to other work, the disk does not.
_AT_ONCE = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one object.

    Attributes:
        entry: the object; as it is afterwards.
        reason: why it is out of service; empty if it is whole.
        files: those that are not as they were.
        unlike: those that never were what their wheel's RECORD says: not damage, but worth knowing.
        error: why it could not be read; empty if it was.
        freed_bytes: what its removal freed; None if it stays.
    """

    entry: Entry
    reason: str = ""
    files: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    error: str = ""
    freed_bytes: int | None = None


class Verification:
    """Verifies objects. One at a time makes sense, several do no harm."""

    def __init__(
        self, workshop: Workshop, references: References, damage: Damage, sealer: Sealer, steps: Steps
    ) -> None:
        self._workshop, self._references = workshop, references
        self._damage, self._sealer, self._steps = damage, sealer, steps

    async def run(self, entries: Sequence[Entry], *, repair: bool) -> AsyncGenerator[Verdict, None]:
        """Verifies these objects in any order; what is damaged is out of service from then on.

        Args:
            entries: which.
            repair: remove what is damaged and nobody refers to.
        """
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(entry: Entry) -> Verdict:
            async with slots:
                return await self._verify(entry, repair=repair)

        tasks = [asyncio.ensure_future(one(entry)) for entry in entries]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    async def _verify(self, entry: Entry, *, repair: bool) -> Verdict:
        try:
            verdict = await self._look(entry)
        except EnvError as error:
            return Verdict(entry, error=" / ".join((error.cause, *error.output[-1:])))
        except (StoreError, OSError) as error:
            return Verdict(entry, error=str(error))
        if repair and verdict.reason:
            return await self._remove(verdict)
        return verdict

    async def _look(self, entry: Entry) -> Verdict:
        if entry.damaged:
            return Verdict(entry, entry.damaged)
        store = self._workshop.store
        held = store.keep(entry.key)
        if held is None:
            return self._after(entry)
        try:
            reason = await self._workshop.thread(store.check, held.key)
            if reason is not None:
                differences = await self._damage.suspect(held, reason)
                return self._after(held, tuple(each.path for each in differences))
            manifest = await self._damage.manifest(held) if held.facts.sealed else None
            if manifest is None:
                # Reads every file as well; a manifest that was lost is written anew.
                sealed = await self._sealer.seal(held, again=True)
                return self._after(held) if sealed is None else await self._told(sealed)
            found = await self._damage.compare(held, digests=True)
            if found is not None and found.differences:
                await self._damage.condemn(held, found.differences)
                return self._after(held, tuple(each.path for each in found.differences))
            return Verdict(held, unlike=manifest.unlike)
        finally:
            store.unhold(held.key, held.generation)

    def _after(self, held: Entry, files: tuple[str, ...] = ()) -> Verdict:
        """The verdict on an object that has just been taken out of service, or was removed meanwhile."""
        now = next(
            (
                each
                for each in self._workshop.store.entries()
                if (each.key, each.generation) == (held.key, held.generation)
            ),
            held,
        )
        return Verdict(now, now.damaged, files)

    async def _told(self, entry: Entry) -> Verdict:
        manifest = await self._damage.manifest(entry)
        return Verdict(entry, unlike=() if manifest is None else manifest.unlike)

    async def _remove(self, verdict: Verdict) -> Verdict:
        entry = verdict.entry
        store, is_referenced = self._workshop.store, self._references.is_referenced
        try:
            async with self._steps.paused():  # the patrol may have begun to look at it before it was damaged
                freed = await self._workshop.thread(
                    store.evict_damaged, entry.key, entry.generation, is_referenced
                )
            self._workshop.metrics.store.evicted(entry.key.kind, "damaged", freed)
        except NotFoundError:
            freed = 0
        except InUseError:
            return verdict
        except OSError as error:
            return Verdict(entry, verdict.reason, verdict.files, error=str(error))
        return Verdict(entry, verdict.reason, verdict.files, freed_bytes=freed)
