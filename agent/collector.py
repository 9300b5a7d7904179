"""When to collect: after builds and releases, when the budget is tight, and once a minute."""

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import replace

from ray_envd.agent import process
from ray_envd.agent.errors import EnvError
from ray_envd.agent.python.tools import Toolbox
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.collect import Collected, collect
from ray_envd.cache.gc import Limits
from ray_envd.cache.owner import Owner
from ray_envd.cache.references import References
from ray_envd.cache.store import uv_cache_bytes

_log = logging.getLogger(__name__)
_INTERVAL = 60.0  # seconds between looks when nothing happens
_MEASURE_INTERVAL = 30.0  # seconds between walks over uv's caches, which may hold very many files
_CALM = 0.5  # seconds to let a burst of events pass


class Collector:
    """Keeps the store within its limits. ``poke`` from anywhere on the event loop."""

    def __init__(self, workshop: Workshop, references: References, limits: Limits) -> None:
        self._workshop, self._references, self._limits = workshop, references, limits
        self._poked = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._measured = -_MEASURE_INTERVAL
        self.uv_cache_bytes = 0

    def poke(self) -> None:
        """Something was built or released."""
        self._poked.set()

    async def run(self) -> None:
        """Looks after the store until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), _INTERVAL)
            await asyncio.sleep(_CALM)
            self._poked.clear()
            try:
                await self._look()
            except Exception:  # noqa: BLE001 - logged, and tried again
                # The next look may succeed; the daemon must not end over its housekeeping.
                _log.exception("collection failed")

    async def _look(self) -> None:
        await self._workshop.thread(self._workshop.store.flush)
        await self._workshop.thread(self._references.flush)
        if time.monotonic() - self._measured > _MEASURE_INTERVAL:
            self.uv_cache_bytes = await self._measure_uv()
            await self._workshop.thread(self._workshop.store.refresh_units)
        metrics, store = self._workshop.metrics, self._workshop.store
        metrics.objects.set(len(store.entries()))
        metrics.stored_bytes.set(store.stored_bytes())
        metrics.uv_cache_bytes.set(self.uv_cache_bytes)
        metrics.references.set(self._references.total())
        done = await self.collect()
        high = self._limits.high_bytes
        if high is not None and done.remaining_bytes > high and self.uv_cache_bytes:
            await self._prune_uv()

    async def collect(self, target: int | None = None, *, dry_run: bool = False) -> Collected:
        """Collects down to the low watermark if above the high one, or down to a target in bytes."""
        async with self._one_at_a_time:
            done = await self._workshop.thread(
                collect,
                self._workshop.store,
                self._references,
                # Somebody who names a target means it: also what was used a moment ago goes.
                self._limits if target is None else replace(self._limits, min_unused_seconds=0.0),
                now=time.time(),
                target=target,
                dry_run=dry_run,
                extra_bytes=self.uv_cache_bytes,
            )
        if not dry_run:
            self._count(done)
        return done

    async def make_room(self, size: int) -> int:
        """Frees at least so many bytes if it can; returns how many it freed."""
        stored = self._workshop.store.stored_bytes() + self.uv_cache_bytes
        done = await self.collect(max(0, stored - size))
        return done.freed_bytes

    def _count(self, done: Collected) -> None:
        for victim in done.victims:
            self._workshop.metrics.evictions.labels(victim.entry.key.kind).inc()
            _log.info("collected %s (%s): %s", victim.entry.key.id, victim.entry.summary, victim.reason)
        self._workshop.metrics.freed_bytes.inc(done.freed_bytes)

    def _owners(self) -> list[Owner]:
        return [Owner.of(uid, gid) for uid, gid in self._workshop.store.owners()]

    async def _measure_uv(self) -> int:
        owners = await self._workshop.thread(self._owners)
        measured = [await self._workshop.thread(uv_cache_bytes, self._workshop.store, o) for o in owners]
        self._measured = time.monotonic()
        return sum(measured)

    async def _prune_uv(self) -> None:
        """The objects alone do not free enough: uv's own cache goes as well."""
        for owner in await self._workshop.thread(self._owners):
            folder = await self._workshop.thread(self._workshop.store.user_dir, owner)
            tools = Toolbox.bundled(folder.uv_cache)
            environment = {"UV_CACHE_DIR": str(tools.cache_dir), "PATH": os.environ.get("PATH", "")}
            try:
                await process.run(
                    [tools.uv, "cache", "clean"], env=environment, cwd=folder.staging, owner=owner
                )
            except EnvError as error:
                _log.warning("uv's cache could not be cleaned: %s", error)
        self.uv_cache_bytes = await self._measure_uv()
        await self._workshop.thread(self._workshop.store.refresh_units)
