"""One build's bytes: what was set aside for it, and what happens when it turns out larger."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray_envd.agent.errors import DiskFullError, EnvError
from ray_envd.cache.budget import Reservation
from ray_envd.cache.owner import Owner

if TYPE_CHECKING:
    from ray_envd.agent.space import Space


class Report(Protocol):
    """How steps are told; on the event loop."""

    def __call__(self, phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
        """Reports a step."""


class OutgrownError(Exception):
    """A build needs more than there is at once; it starts over with ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes are needed")
        self.size = size


class Room:
    """One build's bytes; everything here is for the event loop."""

    def __init__(self, space: "Space", reservation: Reservation, field: str) -> None:
        """Use :meth:`Space.run`."""
        self._space, self._field = space, field
        self.reservation = reservation
        self.folder: tuple[Path, Owner] | None = None
        self.in_uv_cache = False
        self._task: asyncio.Task[Any] | None = None
        self._wanted = 0
        self._growing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def writes_to(self, folder: Path, owner: Owner) -> None:
        """What is in this folder, and linked nowhere else, is this build's."""
        self.folder = (folder, owner)

    def writes_to_uv_cache(self) -> None:
        """What uv's caches grow by meanwhile may be this build's."""
        if not self.in_uv_cache:
            self.in_uv_cache = True
            self._space.uv_caches.growth.begin()

    async def secure(self, size: int) -> None:
        """Goes on once so many bytes are set aside for the build in all.

        Raises:
            NeverFitsError: they are more than the whole budget.
        """
        if size > self.reservation.size:
            await self._space.grow(self.reservation, size, self._field)

    def need(self, size: int) -> None:
        """The build turns out to need so many bytes in all; it is ended if it cannot have them."""
        self._wanted = max(self._wanted, size)
        if self._wanted > self.reservation.size and self._growing is None and self._failure is None:
            self._growing = asyncio.create_task(self._grow(), name="grow a reservation")

    async def _grow(self) -> None:
        try:
            while self._wanted > self.reservation.size and not self.reservation.released:
                await self.secure(self._wanted)
        except (EnvError, OutgrownError) as error:
            if self._task is not None and not self._task.done():
                self._failure = error
                self._task.cancel()
        finally:
            self._growing = None

    def finish(self) -> None:
        """Everything is written, and only to be published: the build is not ended any more."""
        self._task = None

    @contextlib.asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Turns the end that :meth:`need` may put to the block into its reason."""
        task = self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            self.finish()
            if self._failure is None or task is None or task.uncancel():
                raise
            raise self._failure from None
        except BaseException:
            await self._let_pass(task)
            raise
        else:
            await self._let_pass(task)

    async def _let_pass(self, task: "asyncio.Task[Any] | None") -> None:
        """The block has ended by itself; a cancellation of ours may still be on its way."""
        self.finish()
        if self._failure is None or task is None:
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        if task.uncancel():
            raise asyncio.CancelledError  # somebody else's, which came at the same time

    async def close(self) -> None:
        """Gives everything back."""
        self.finish()
        if self._growing is not None:
            self._growing.cancel()
            await asyncio.wait({self._growing})
        if self.in_uv_cache:
            self._space.uv_caches.growth.end(self.reservation.size)
        self.reservation.release()


def disk_full(error: OSError, field: str | None = None) -> DiskFullError | None:
    """The typed error of a write that found no space; None for any other."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return None
    return DiskFullError(f"the disk is full ({error.filename})", field=field, remedy="free disk space")
