"""What a cancellation may not leave half done."""

import asyncio
import threading

import pytest

from ray_envd.agent.cancellation import to_the_end


async def test_work_in_a_thread_is_waited_for() -> None:
    """It cannot be stopped: who is cancelled meanwhile goes when it has ended."""
    began, may_end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10)

    waiting = asyncio.ensure_future(to_the_end(asyncio.to_thread(work)))
    await asyncio.to_thread(began.wait, 10)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
