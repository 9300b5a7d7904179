"""When to collect: after builds and releases, when room is needed, and when others fill the disk."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from ray_envd.agent.config_kinds import OBJECT_KINDS
from ray_envd.agent.space import Freed, Space
from ray_envd.agent.uv_caches import UvCaches
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.collect import Collected, collect
from ray_envd.cache.gc import Cause, Limits
from ray_envd.cache.records import Entry
from ray_envd.cache.references import References
from ray_envd.cache.text import bytes_text
from ray_envd.cache.usage import totals

_log = logging.getLogger(__name__)
_INTERVAL = 60.0  # seconds between looks at the store when nothing happens
_DISK_INTERVAL = 5.0  # seconds between looks at the disk, which others fill too
_MEASURE_INTERVAL = 600.0  # seconds between looks at uv's caches when nothing is built: others prune too
_CALM = 0.5  # seconds to let a burst of events pass
_SHARE = 20  # the sums over all objects are made in at most one part in so many of the time
_AMPLE = 1.25  # where others have filled the disk, so many times its minimum is to be free again


class Collector:
    """Keeps the store within its limits. ``poke`` from anywhere on the event loop."""

    def __init__(self, workshop: Workshop, references: References, limits: Limits) -> None:
        self._workshop, self._references, self._limits = workshop, references, limits
        self._poked = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._due = 0.0  # monotonic seconds, when to look at the store again
        self._sums_due = 0.0  # monotonic seconds, when to make the sums over all objects again

    @property
    def _space(self) -> Space:
        return self._workshop.space

    @property
    def _uv(self) -> UvCaches:
        return self._workshop.space.uv_caches

    @property
    def uv_cache_bytes(self) -> int:
        """What uv's caches held when they were measured last."""
        return self._uv.bytes

    def poke(self) -> None:
        """Something was built or released."""
        self._poked.set()

    async def run(self) -> None:
        """Looks after the store until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                pause = min(_DISK_INTERVAL, max(0.0, self._due - time.monotonic()))
                await asyncio.wait_for(self._poked.wait(), pause)
            try:
                if self._poked.is_set() or time.monotonic() >= self._due:
                    await asyncio.sleep(_CALM)
                    await self._look()
                else:
                    await self._look_at_disk()
            except Exception:  # noqa: BLE001 - logged, and tried again
                # The next look may succeed; the daemon must not end over its housekeeping.
                _log.exception("collection failed")

    async def _look(self) -> None:
        self._poked.clear()
        self._due = time.monotonic() + _INTERVAL
        await self._workshop.thread(self._workshop.store.flush)
        await self._workshop.thread(self._references.flush)
        old = time.monotonic() - self._uv.measured > _MEASURE_INTERVAL
        if old or not self._uv.growth.is_settled or not self._uv.bytes:
            await self._uv.measure()
        high = self._limits.high_bytes
        damaged = any(entry.damaged for entry in self._workshop.store.entries())
        if (high is not None and self._space.used > high) or self._limits.kind_bytes or damaged:
            await self._reclaim(None, self._limits, "watermark")
            young = self._next_old_enough()
            if young is not None and (self._limits.kind_bytes or self._space.used > (high or 0)):
                self._due = min(self._due, time.monotonic() + young)
        await self._look_at_disk()
        self._space.changed()
        await self._tell_sums()

    async def _tell_sums(self) -> None:
        """For Prometheus: what only a walk over all objects can tell."""
        started = time.monotonic()
        if started < self._sums_due:
            self._due = min(self._due, self._sums_due)
            return
        sums = await self._workshop.thread(totals, self._workshop.store)
        metrics = self._workshop.metrics.store
        metrics.apparent_bytes.set(sums.apparent)
        metrics.image_bytes.set(sums.layers)
        for kind in OBJECT_KINDS:
            metrics.objects.labels(kind).set(sums.objects.get(kind, 0))
            metrics.exclusive_bytes.labels(kind).set(sums.exclusive.get(kind, 0))
        now = time.monotonic()
        self._sums_due = now + _SHARE * (now - started)

    async def _look_at_disk(self) -> None:
        """Others may have filled the disk: then the store gives, though it is within its own limits."""
        least = self._space.budget.min_free
        free = await self._workshop.thread(self._space.budget.disk_free)
        self._workshop.metrics.store.disk_free_bytes.set(free)
        if free >= least:
            return
        done = await self._reclaim(self._space.used - int(least * _AMPLE - free), self._limits, "disk")
        if done.freed_bytes:
            _log.warning(
                "the disk had %s free, less than min_free; %s were collected",
                bytes_text(free),
                bytes_text(done.freed_bytes),
            )

    async def collect(self, target: int | None = None, *, dry_run: bool = False) -> Collected:
        """Collects down to the low watermark if above the high one, or down to a target in bytes."""
        # Somebody who names a target means it: also what was used a moment ago goes.
        limits = self._limits if target is None else replace(self._limits, min_unused_seconds=0.0)
        if dry_run:
            return await self._collect(target, limits, dry_run=True)
        return await self._reclaim(target, limits, "request")

    async def make_room(self, missing: int) -> Freed:
        """Frees at least so many bytes, or nothing; never what was used a moment ago."""
        before = self._space.used
        await self._uv.measure()
        found = before - self._space.used  # what builds had reserved and not written
        if found >= missing:
            return Freed(found)
        missing -= found
        target = max(0, self._space.used - missing)
        if await self._could_free(missing, self._limits):
            done = await self._reclaim(target, self._limits, "room")
            if done.freed_bytes:
                return Freed(done.freed_bytes)
        if await self._could_free(missing, replace(self._limits, min_unused_seconds=0.0)):
            return Freed(0, again=self._next_old_enough())
        return Freed(0)

    async def _could_free(self, missing: int, limits: Limits) -> bool:
        planned = await self._collect(max(0, self._space.used - missing), limits, dry_run=True)
        return planned.freed_bytes >= missing or planned.freed_bytes + await self._uv.spare() >= missing

    def _next_old_enough(self) -> float | None:
        """Seconds until one more of the unused objects may be collected."""
        now, age = time.time(), self._limits.min_unused_seconds
        waits = [entry.last_used + age - now for entry in self._unused()]
        return min((wait for wait in waits if wait > 0), default=None)

    def _unused(self) -> Iterable[Entry]:
        store, referenced = self._workshop.store, self._references.is_referenced
        return [
            entry
            for entry in store.entries()
            if not entry.pinned and not store.is_held(entry.key) and not referenced(entry.key)
        ]

    def holders(self) -> str:
        """Who has the space, for people."""
        store, entries = self._workshop.store, self._workshop.store.entries()
        is_used = self._references.is_referenced
        used = {entry.key for entry in entries if is_used(entry.key) or store.is_held(entry.key)}
        sums = {
            "in use": _together(entry for entry in entries if entry.key in used),
            "pinned": _together(entry for entry in entries if entry.pinned and entry.key not in used),
            "reserved by builds": self._space.budget.reserved,
            "uv's caches alone": max(0, self._uv.bytes - store.ledger().outside),
        }
        told = [f"{name} {bytes_text(size)}" for name, size in sums.items() if size]
        return ", ".join(told) or "nothing is stored"

    # carrying out

    async def _collect(self, target: int | None, limits: Limits, *, dry_run: bool = False) -> Collected:
        return await self._workshop.thread(
            collect,
            self._workshop.store,
            self._references,
            limits,
            now=time.time(),
            target=target,
            dry_run=dry_run,
            uv_cache_bytes=self._uv.growth.stored,
        )

    async def _reclaim(self, target: int | None, limits: Limits, reason: str) -> Collected:
        """First what uv's caches hold for nobody, then objects, then what those had from uv's caches."""
        async with self._one_at_a_time:
            started = time.monotonic()
            goal = self._goal(limits) if target is None else max(0, target)
            freed = await self._prune(goal)
            if target is None and goal is not None:
                # Also if the pruning has brought it below the high one.
                limits = replace(limits, high_bytes=goal, low_bytes=goal)
            done = await self._collect(target, limits)
            if done.victims:
                entries = [victim.entry for victim in done.victims]
                await self._uv.note_used((e.key.owner, e.details, e.last_used) for e in entries)
                freed += await self._prune(goal)
            if goal is not None and (excess := self._space.used - goal) > 0:
                freed += await self._uv.empty(excess)
            freed += done.freed_bytes
            self._workshop.metrics.store.collection_seconds.labels(reason).observe(time.monotonic() - started)
        self._count(done, freed, reason)
        self._space.changed()
        return replace(done, freed_bytes=freed, remaining_bytes=self._space.used)

    def _goal(self, limits: Limits) -> int | None:
        high = limits.high_bytes
        return None if high is None or self._space.used <= high else limits.low_bytes

    async def _prune(self, goal: int | None) -> int:
        excess = 0 if goal is None else self._space.used - goal
        return await self._uv.shrink(excess) if excess > 0 else 0

    def _count(self, done: Collected, freed: int, reason: str) -> None:
        """What went for a limit of its own is told apart from what the collection was made for."""
        metrics = self._workshop.metrics.store
        self._workshop.trace.told("evict", [victim.entry.key for victim in done.victims])
        for victim in done.victims:
            kind, cause = victim.entry.key.kind, victim.cause
            if cause is Cause.WHOLE:
                metrics.evicted(kind, reason, 0)
            else:
                metrics.evicted(kind, cause, victim.frees)
                freed -= victim.frees
            _log.info("collected %s (%s): %s", victim.entry.key.id, victim.entry.summary, victim.reason)
        metrics.freed_bytes.labels(reason).inc(max(0, freed))


def _together(entries: Iterable[Entry]) -> int:
    """The bytes of some objects, what they share once."""
    entries = list(entries)
    units = {unit.id: unit.bytes for entry in entries for unit in entry.size.units}
    return sum(entry.size.private for entry in entries) + sum(units.values())
