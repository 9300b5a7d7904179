"""Housekeeping in steps, which give way at once to somebody who wants objects gone.

Whoever looks after an object holds it, and what is held is not removed. So whoever asks for a removal pauses
the housekeeping: the step under way is broken off, its processes are ended, and it is done again later.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


class Steps:
    """Runs steps unless it is paused. Use from one event loop."""

    def __init__(self) -> None:
        self._pauses = 0
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, object]) -> bool:
        """Does one step; False if it was broken off. What it raises, this raises."""
        try:
            await self._may_run.wait()
        except asyncio.CancelledError:
            work.close()
            raise
        task = asyncio.create_task(work)
        self._running.add(task)
        try:
            await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):
                return False
            raise
        finally:
            self._running.discard(task)
        return True

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing runs during the block; what was running has ended with all of its processes."""
        self._pauses += 1
        self._may_run.clear()
        try:
            running = tuple(self._running)
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._may_run.set()
