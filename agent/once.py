"""One run per key, however many wait.

Like uv's ``OnceMap``, with one thing more: a run belongs to its waiters. Each waits with a deadline of
its own; when the last one has gone, the run is cancelled. Somebody who asks for a key whose run is just
being cancelled waits for the end of its clean-up and starts a new one, so that two runs of one key never
overlap.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from ray_envd.agent.errors import DrainingError

T = TypeVar("T")


class _Run:
    """A task and the number of those who wait for it."""

    __slots__ = ("abandoned", "task", "waiters")

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.task = task
        self.waiters = 0
        self.abandoned = False


class Once:
    """Runs by key. Use from one event loop."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, _Run] = {}

    def __len__(self) -> int:
        """How many runs are under way."""
        return len(self._runs)

    def running(self, key: Hashable) -> bool:
        """Whether a run of this key is under way."""
        return key in self._runs

    async def do(self, key: Hashable, factory: Callable[[], Awaitable[T]]) -> T:
        """The result of the run of this key: the one under way, or a new one of ``factory``.

        An exception of the run reaches every waiter. Cancelling one waiter leaves the run to the others.
        Whoever comes after a run is over, be it in the same step of the loop, gets a new one: who asks again
        and again until he finds what he wants must not be answered from the past without end.

        Raises:
            DrainingError: :meth:`cancel_all` has ended the run.
        """
        while True:
            run = self._runs.get(key)
            if run is None or run.task.done():
                run = self._start(key, factory)
            elif run.abandoned:
                await asyncio.wait({run.task})
                continue
            return await self._wait(run)  # type: ignore[no-any-return]  # a run of this key is of this factory's type

    def _start(self, key: Hashable, factory: Callable[[], Awaitable[Any]]) -> _Run:
        async def body() -> Any:
            return await factory()

        run = _Run(asyncio.create_task(body(), name=f"once {key}"))
        self._runs[key] = run
        run.task.add_done_callback(lambda _: self._finished(key, run))
        return run

    def _finished(self, key: Hashable, run: _Run) -> None:
        if self._runs.get(key) is run:
            del self._runs[key]
        if not run.task.cancelled():
            run.task.exception()  # somebody has heard it, or nobody waits any more

    async def _wait(self, run: _Run) -> Any:
        run.waiters += 1
        try:
            return await asyncio.shield(run.task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if run.task.cancelled() and not (caller and caller.cancelling()):
                raise DrainingError("the daemon is shutting down") from None
            raise
        finally:
            run.waiters -= 1
            if run.waiters == 0 and not run.task.done():
                run.abandoned = True
                run.task.cancel()

    async def finished(self) -> None:
        """Waits until no run is under way."""
        while self._runs:
            await asyncio.wait({run.task for run in self._runs.values()})

    async def cancel_all(self) -> int:
        """Cancels every run, waits for their clean-up and returns how many there were."""
        runs = list(self._runs.values())
        for run in runs:
            run.abandoned = True
            run.task.cancel()
        if runs:
            await asyncio.wait({run.task for run in runs})
        return len(runs)
