"""An event loop whose clock stands still, and threads whose work is done when a test says so.

With both, a test decides in which order things happen, and nothing waits for real time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any


class KilledError(BaseException):
    """What became of work that a killed process had not done."""


class Jobs(ThreadPoolExecutor):
    """Takes the place of a pool of threads, in which any job may overtake any other."""

    def __init__(self) -> None:
        super().__init__(1)
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._done: list[Callable[[], None]] = []
        self._killed = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._done)

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self._killed:
            future.set_exception(KilledError())
        else:
            self._waiting.append((future, partial(work, *args, **kwargs)))
        return future

    def work(self, which: int = 0) -> None:
        """Does one of the jobs that wait; nobody hears of it yet."""
        future, work = self._waiting.pop(which)
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - as a thread does: the future has it
            self._done.append(partial(future.set_exception, error))
        else:
            self._done.append(partial(future.set_result, result))

    def report(self, which: int) -> None:
        """Tells the result of one of the jobs that are done."""
        self._done.pop(which)()

    @property
    def waiting(self) -> int:
        """How many are to be done."""
        return len(self._waiting)

    @property
    def done(self) -> int:
        """How many are done, and nobody knows."""
        return len(self._done)

    def kill(self) -> None:
        """What is waiting is never done, nor anything from now on."""
        self._killed = True
        waiting, self._waiting, self._done = self._waiting, [], []
        for future, _ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(KilledError())


class SteppedLoop(asyncio.SelectorEventLoop):
    """Its time passes by :meth:`pass_time` only."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def run_ready(self) -> None:
        """Runs whatever can run without more time and without a job."""
        while True:
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready and not any(
                not timer.cancelled() and timer.when() <= self.now for timer in self._scheduled
            ):
                return

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, timer by timer."""
        end = self.now + seconds
        while (timers := [t.when() for t in self._scheduled if not t.cancelled()]) and min(timers) <= end:
            self.now = max(self.now, min(timers))
            self.run_ready()
        self.now = end
        self.run_ready()
