"""Room for what is written: bytes reserved before a build, corrected during it, given back after it.

Whoever waits for room holds none and no slot, so no two can wait for each other. A build that turns out
larger than what was set aside for it gets more at once, if need be by a collection; if it cannot, it is
undone and starts over once the larger number of bytes is there. One that would never fit fails before any
work.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.errors import DiskFullError, NeverFitsError, OutOfSpaceError
from ray_envd.agent.overtaking import Overtaking, Waiter
from ray_envd.agent.room import OutgrownError, Report, Room
from ray_envd.agent.uv_caches import UvCaches
from ray_envd.cache import errors as cache_errors
from ray_envd.cache.budget import Budget, Reservation
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.sizes import weigh
from ray_envd.cache.text import bytes_text

_log = logging.getLogger(__name__)
T = TypeVar("T")

_SAMPLE = 1.0  # seconds between looks at what running builds have written
_SHARE = 20  # a look takes at most one part in so many of the time
_POLL = 1.0  # seconds between attempts of those who wait for room, when nobody tells that something changed
_PATIENCE = 60.0  # seconds for which a full disk is waited for: whether others give room, nobody knows
_SPARE = 1.25  # a build that has outgrown what was set aside for it gets so many times what it has written
_MOST_LEARNED = 1000


@dataclass(frozen=True, slots=True)
class Freed:
    """What an attempt to make room came to.

    Attributes:
        freed: bytes.
        again: seconds after which another attempt can free more, as objects are old enough then; None: never.
    """

    freed: int
    again: float | None = None


class Rooms(Protocol):
    """What keeps the store within its limits: the collector."""

    async def make_room(self, missing: int) -> Freed:
        """Frees at least so many bytes, or nothing."""

    def holders(self) -> str:
        """Who has the space, for people."""


class Space:
    """The daemon's bytes: the store's, uv's caches', and those that are reserved."""

    def __init__(
        self,
        budget: Budget,
        stored: Callable[[], int],
        thread: Callable[..., Awaitable[Any]],
        uv_caches: UvCaches,
        aside: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """``thread`` runs blocking work; ``stored`` says what the objects take, and is loop-safe.

        Who waits for room does so inside of ``aside()``, which leaves his slot to others.
        """
        self.budget, self.uv_caches = budget, uv_caches
        self.rooms: Rooms | None = None
        self.overtaking = Overtaking()
        self._stored, self._thread, self._aside = stored, thread, aside
        self._changed = asyncio.Event()
        self._learned: dict[Hashable, int] = {}
        self._open: dict[Room, None] = {}
        self._sampler: asyncio.Task[None] | None = None
        #: How many wait for room.
        self.waiting = 0
        #: Told how many seconds each one has waited, be it none; also of those who got nothing.
        self.on_waited: Callable[[float], None] = lambda _: None

    @property
    def used(self) -> int:
        """What counts as stored: objects, and uv's caches. Loop-safe."""
        return self._stored() + self.uv_caches.growth.stored

    def changed(self) -> None:
        """Something was released, collected or given back: whoever waits for room looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def run(
        self,
        name: Hashable,
        size: int,
        work: Callable[[Room], Awaitable[T]],
        *,
        field: str,
        report: Report,
    ) -> T:
        """Does work that writes to the store, with bytes set aside for it; waits for them if need be.

        Args:
            name: by which a later attempt at the same work is known.
            size: bytes, as far as is known now; 0: the caller has a room for them, nothing is looked at.
            work: what to do; it may be undone and done again if it needs more.
            field: for errors.
            report: hears of waiting.

        Raises:
            NeverFitsError: it is larger than the whole budget.
            OutOfSpaceError: there is no room, and nothing under way will make any.
        """
        size = max(size, self._learned.pop(name, 0))
        while True:
            room = Room(self, await self._reserve(size, field, report), field)
            if size:
                self._watch(room)
            try:
                async with room.guard():
                    return await work(room)
            except OutgrownError as outgrown:
                size = outgrown.size
                report("starting over", f"{bytes_text(size)} are needed")
            except DiskFullError:
                # What it needs is known better now; the next attempt asks for it before it begins.
                self._learn(name, max(room.reservation.size, int(room.reservation.written * _SPARE)))
                raise
            finally:
                self._open.pop(room, None)
                await to_the_end(room.close())
                self.changed()

    def _learn(self, name: Hashable, size: int) -> None:
        while len(self._learned) >= _MOST_LEARNED:
            del self._learned[next(iter(self._learned))]
        self._learned[name] = size

    # waiting

    async def _reserve(self, size: int, field: str, report: Report) -> Reservation:
        began = time.monotonic()
        try:
            return await self._reserved(size, field, report)
        finally:
            self.on_waited(time.monotonic() - began)

    async def _reserved(self, size: int, field: str, report: Report) -> Reservation:
        if not (size and self.overtaking.is_barred(None)):
            with contextlib.suppress(cache_errors.NoRoomError):
                return await self._try(size)
        reservation: Reservation | None = None
        self.waiting += 1
        try:
            async with self._aside():
                reservation = await self._wait_for_room(size, field, report)
        except BaseException:
            # Also when cancelled while it waits for its slot again.
            if reservation is not None:
                reservation.release()
            raise
        finally:
            self.waiting -= 1
        return reservation

    async def _wait_for_room(self, size: int, field: str, report: Report) -> Reservation:
        told, impatient = False, time.monotonic() + _PATIENCE
        with self.overtaking.waiting() as waiter:
            while True:
                changed, pause = self._changed, _POLL
                if self.overtaking.is_barred(waiter):
                    why, impatient = "one who was overtaken for long goes first", time.monotonic() + _PATIENCE
                else:
                    try:
                        return await self._try(size)
                    except cache_errors.NeverFitsError as error:
                        raise _never(error, field) from error
                    except cache_errors.NoRoomError as error:
                        why, patience = str(error), impatient - time.monotonic()
                        pause = await self._pause(error, field, waiter, patience)
                if not told:
                    report("waiting for room", why)
                    told = True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), pause)

    async def _pause(
        self, error: cache_errors.NoRoomError, field: str, waiter: Waiter, patience: float
    ) -> float:
        """How long to wait before another attempt.

        Raises:
            OutOfSpaceError: no waiting helps.
        """
        freed = await self._make_room(error.missing)
        if freed.freed:
            return 0.0
        others_build = bool(self.budget.reserved) or not self.uv_caches.growth.is_settled
        self.overtaking.missed(waiter, others_build=others_build)
        if others_build:
            return _POLL
        if freed.again is not None:
            return min(_POLL, freed.again)
        if error.of_disk and patience > 0:
            return min(_POLL, patience)
        raise self._no_room(error, field) from error

    async def _make_room(self, missing: int) -> Freed:
        if self.rooms is None:
            return Freed(0)
        # Who asked may go, but what has been begun is brought to its end.
        return await asyncio.shield(self.rooms.make_room(missing))

    def _no_room(self, error: cache_errors.NoRoomError, field: str) -> OutOfSpaceError:
        holders = "" if self.rooms is None else f"; {self.rooms.holders()}"
        return OutOfSpaceError(
            f"{error}{holders}",
            field=field,
            remedy="free disk space, raise the daemon's max_bytes, or end jobs that hold other envs",
        )

    async def _try(self, size: int) -> Reservation:
        making = asyncio.ensure_future(self._thread(self.budget.reserve, size, self.used))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await asyncio.wait({making})
            if making.exception() is None:
                making.result().release()
            raise

    async def grow(self, reservation: Reservation, size: int, field: str) -> None:
        """Sets more bytes aside for a build that has begun, if need be by a collection.

        Raises:
            NeverFitsError: they are more than the whole budget.
        """
        for last in (False, True):
            try:
                await self._thread(reservation.resize, size, self.used)
            except cache_errors.NeverFitsError as error:
                raise _never(error, field) from error
            except cache_errors.NoRoomError as error:
                if last or not (await self._make_room(error.missing)).freed:
                    raise OutgrownError(size) from error
            else:
                return

    async def disk_again(self, report: Report) -> None:
        """Waits until the disk has room after a write has failed, but not for ever."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            missing = self.budget.min_free - await self._thread(self.budget.disk_free)
            if missing <= 0:
                return
            report("waiting for room", f"the disk is full, {bytes_text(missing)} more must be free")
            if not (await self._make_room(missing)).freed:
                await asyncio.sleep(_POLL)

    # correcting

    def _watch(self, room: Room) -> None:
        self._open[room] = None
        if self._sampler is None or self._sampler.done():
            self._sampler = asyncio.create_task(self._sample(), name="sample builds")

    async def _sample(self) -> None:
        pause = _SAMPLE
        while True:
            await asyncio.sleep(pause)
            if not self._open:
                return
            started = time.monotonic()
            try:
                await self._look()
            except OSError as error:
                _log.warning("what builds have written could not be measured: %s", error)
            pause = max(_SAMPLE, _SHARE * (time.monotonic() - started))

    async def _look(self) -> None:
        """Compares what builds have written with what is reserved for them."""
        rooms = list(self._open)
        own = [0 if room.folder is None else await self._thread(_written, *room.folder) for room in rooms]
        shared = [room for room in rooms if room.in_uv_cache]
        if shared:
            await self.uv_caches.measure()
        for room, written in zip(rooms, own, strict=True):
            room.reservation.wrote(written)
            if room not in shared and written > room.reservation.size:
                room.need(int(written * _SPARE))
        if not shared:
            return
        written = sum(room.reservation.written for room in shared) + self.uv_caches.growth.pending
        excess = written - sum(room.reservation.size for room in shared)
        newest = shared[-1]  # who it was cannot be told; the newest has the least to lose
        if len(shared) == 1:
            newest.reservation.wrote(written)
        if excess > 0 and newest in self._open:
            newest.need(newest.reservation.size + int(excess * _SPARE))


def _never(error: cache_errors.NeverFitsError, field: str) -> NeverFitsError:
    return NeverFitsError(str(error), field=field, remedy="raise the daemon's max_bytes")


def _written(folder: Path, owner: Owner) -> int:
    with acting_as(owner):
        return weigh(folder).own
