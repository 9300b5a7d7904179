"""Housekeeping that gives way."""

import asyncio

import pytest

from ray_envd.agent.integrity.steps import Steps


async def forever(began: asyncio.Event, ended: list[str]) -> None:
    """Work that has to be cleared away."""
    began.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        ended.append("cleared away")


async def test_a_pause_breaks_off_what_runs_and_holds_what_comes() -> None:
    """Inside of the block nothing runs, and what ran has been cleared away; two pauses end with both."""
    steps, began, ended = Steps(), asyncio.Event(), list[str]()
    first = asyncio.ensure_future(steps.run(forever(began, ended)))
    await began.wait()
    async with steps.paused():
        assert ended == ["cleared away"]
        assert await first is False
        async with steps.paused():
            second = asyncio.ensure_future(steps.run(asyncio.sleep(0)))
        await asyncio.sleep(0.01)
        assert not second.done()
    assert await second is True


async def test_what_a_step_raises_is_raised() -> None:
    """And the next one runs."""
    steps = Steps()

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await steps.run(fail())
    assert await steps.run(asyncio.sleep(0))


async def test_a_cancelled_caller_takes_its_step_along() -> None:
    """The daemon ends: so does what runs, and nothing waits for a pause to be over."""
    steps, began, ended = Steps(), asyncio.Event(), list[str]()
    running = asyncio.ensure_future(steps.run(forever(began, ended)))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["cleared away"]
    async with steps.paused():
        waiting = asyncio.ensure_future(steps.run(asyncio.sleep(0)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
