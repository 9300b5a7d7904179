"""Where objects are made: one build per key, bytes reserved, cores shared.

The :class:`Workshop` is the daemon's; a request's place in it is a bench (bench.py).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ray_envd.agent.build_metrics import outcome_of
from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.errors import EnvError
from ray_envd.agent.guard import Guard
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.once import Once
from ray_envd.agent.progress import Event, Progress
from ray_envd.agent.room import Report, Room, disk_full
from ray_envd.agent.slots import Slots
from ray_envd.agent.space import Space
from ray_envd.agent.trace import Trace
from ray_envd.agent.uv_caches import UvCaches
from ray_envd.cache import errors as cache_errors
from ray_envd.cache.budget import Budget
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner
from ray_envd.cache.sizes import Unit
from ray_envd.cache.store import Build, Entry, Store

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """What a builder says of what it made.

    Attributes:
        details: JSON to keep with the object.
        fetched_bytes: what was downloaded for it.
        units: which of its files come and go together, see :func:`ray_envd.cache.sizes.measure`.
        stamped: the paths that tell cheaply whether it still stands, see ``Store.check``.
        present: of these, too, but only whether they are there.
        outside: what belongs to it and does not stand in the store.
        seconds: what it cost before its build began.
    """

    details: Mapping[str, Any]
    fetched_bytes: int = 0
    units: Mapping[str, str] | None = None
    stamped: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    outside: tuple[Unit, ...] = ()
    seconds: float = 0.0


#: Fills ``build.path`` within its room.
Builder = Callable[[Build, Report, Room], Awaitable[Made]]


class Workshop:
    """What all requests share."""

    def __init__(self, store: Store, budget: Budget, metrics: Metrics, slots: Slots) -> None:
        self.store = store
        self.metrics = metrics
        self.once = Once()
        self.slots = slots
        self.space = Space(
            budget, store.stored_bytes, self.thread, UvCaches(store, self.thread), aside=slots.lent
        )
        slots.on_waited = metrics.waits.seconds.labels("slot").observe
        self.space.on_waited = metrics.waits.seconds.labels("room").observe
        self.after_build: Callable[[], None] = lambda: None
        self.guard = Guard(store)
        self.trace = Trace()
        self._progress: dict[Hashable, Progress] = {}
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="store")

    async def thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs blocking store work in a thread. It is not interrupted by a cancellation."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self._threads.shutdown(wait=True)
        self.guard.close()

    async def obtain(
        self,
        key: ObjectKey,
        owner: Owner,
        builder: Builder,
        *,
        field: str,
        summary: str,
        reserve: int,
        session: str,
        listener: Callable[[Event], None],
    ) -> tuple[Entry, bool]:
        """The object of this key, held once for the caller, and whether it had to be built.

        ``reserve`` is how many bytes are set aside for its build; none if the caller has a room for them.

        Raises:
            EnvError: the builder's own, or there is no room.
        """
        built = False
        while (entry := await self.hold(key)) is None:
            if not built:
                self.metrics.builds.lookups.labels(
                    key.kind, "joined" if self.once.running(key) else "miss"
                ).inc()
            make = partial(self._make, key, owner, builder, field, summary, reserve, session)
            await self.share(key, make, session, listener)
            built = True
        if not built:
            self.metrics.builds.found(key.kind, entry.build_seconds)
        return entry, built

    async def hold(self, key: ObjectKey) -> Entry | None:
        """The object if it is there and stands, held once for the caller."""
        entry = self.store.hold(key)
        if entry is None:
            return None
        stands = False
        try:
            stands = await self.guard.stands(entry)
        finally:
            if not stands:
                self.store.unhold(key, entry.generation)
        return entry if stands else None

    async def share(
        self,
        key: Hashable,
        work: Callable[[Progress], Awaitable[T]],
        session: str,
        listener: Callable[[Event], None],
    ) -> T:
        """Runs work once for all who want it now; each hears its steps, also those before he came."""
        progress = self._progress.setdefault(key, Progress())

        async def run() -> T:
            try:
                return await work(progress)
            finally:
                self._progress.pop(key, None)

        stop = progress.listen(listener)
        try:
            if not self.once.running(key):
                return await self.once.do(key, run)
            self.slots.join(session, key)
            async with self.slots.lent():
                return await self.once.do(key, run)
        finally:
            stop()

    async def _make(
        self,
        key: ObjectKey,
        owner: Owner,
        builder: Builder,
        field: str,
        summary: str,
        reserve: int,
        session: str,
        progress: Progress,
    ) -> None:
        metrics = self.metrics.builds
        metrics.building.inc()
        outcome = "built"
        try:
            report = partial(progress.report, field)

            async def work(room: Room) -> None:
                async with self.slots.slot(session, key):
                    try:
                        await self._build(key, owner, builder, report, summary, room)
                    except OSError as error:
                        raise _disk_error(error, field) from error

            await self.space.run(key, reserve, work, field=field, report=report)
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            metrics.building.dec()
            metrics.builds.labels(key.kind, outcome).inc()
            self.after_build()

    async def _build(
        self,
        key: ObjectKey,
        owner: Owner,
        builder: Builder,
        report: Report,
        summary: str,
        room: Room,
    ) -> None:
        metrics, started = self.metrics.builds, time.monotonic()
        with metrics.phase(key.kind, "make"):
            build = await self._begin(key, owner)
            room.writes_to(build.path, owner)
            try:
                made = await builder(build, report, room)
            except BaseException:
                # Also when cancelled: the folder must be gone before anybody builds this key again.
                await to_the_end(self.thread(self._abandon, build))
                raise
        seconds = time.monotonic() - started
        room.finish()
        with metrics.phase(key.kind, "commit"):
            await to_the_end(self.thread(self._commit, build, summary, seconds, made))
        self.trace.built(self.store.get(key))
        metrics.fetched_bytes.labels(key.kind).inc(made.fetched_bytes)

    async def _begin(self, key: ObjectKey, owner: Owner) -> Build:
        return await _kept(self.thread(self.store.begin, key, owner), partial(self.thread, self._abandon))

    def _commit(self, build: Build, summary: str, seconds: float, made: Made) -> None:
        try:
            entry = self.store.commit(
                build,
                summary=summary,
                build_seconds=seconds + made.seconds,
                details=made.details,
                fetched_bytes=made.fetched_bytes,
                units=made.units,
                stamped=made.stamped,
                present=made.present,
                outside=made.outside,
            )
        except BaseException:
            self._abandon(build)
            raise
        self.store.unhold(entry.key, entry.generation)

    def _abandon(self, build: Build) -> None:
        try:
            self.store.abandon(build)
        except (OSError, cache_errors.StoreError):
            _log.exception("an unfinished build could not be cleared away")


async def _kept(making: Awaitable[T], undo: Callable[[T], Awaitable[None]]) -> T:
    """Awaits something that must not get lost: if the caller is cancelled meanwhile, it is undone."""
    task = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if task.exception() is None:
            await undo(task.result())
        raise


def _disk_error(error: OSError, field: str) -> EnvError:
    return disk_full(error, field) or EnvError(
        f"{error.strerror}: {error.filename}", field=field, remedy="see the daemon's log"
    )
