"""One run per key, and runs that end with their last waiter."""

import asyncio

import pytest

from ray_envd.agent.errors import BuildError, DrainingError
from ray_envd.agent.once import Once


async def test_many_waiters_share_one_run() -> None:
    """Hundreds who ask for a key at once get the result of a single run."""
    once, runs = Once(), 0

    async def build() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)
        return 42

    assert await asyncio.gather(*(once.do("k", build) for _ in range(300))) == [42] * 300
    assert runs == 1
    assert len(once) == 0


async def test_an_error_reaches_every_waiter_and_is_not_remembered() -> None:
    """All waiters of a failing run see its error; the next one starts afresh."""
    once, runs = Once(), 0

    async def build() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        if runs == 1:
            raise BuildError("no")
        return runs

    results = await asyncio.gather(*(once.do("k", build) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [BuildError] * 3
    assert await once.do("k", build) == 2


async def test_one_waiter_leaving_does_not_disturb_the_others() -> None:
    """A cancelled waiter leaves the run to those who still wait."""
    once, release = Once(), asyncio.Event()

    async def build() -> str:
        await release.wait()
        return "done"

    impatient = asyncio.create_task(once.do("k", build))
    patient = asyncio.create_task(once.do("k", build))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    release.set()
    assert await patient == "done"


async def test_the_last_waiter_takes_the_run_with_it() -> None:
    """When nobody waits any more the run is cancelled."""
    once, cancelled = Once(), asyncio.Event()

    async def build() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiters = [asyncio.create_task(once.do("k", build)) for _ in range(2)]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_runs_of_one_key_never_overlap() -> None:
    """Who asks while an abandoned run cleans up gets a new run, after the clean-up."""
    once, active, most = Once(), 0, 0
    started = asyncio.Event()

    async def build() -> str:
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            started.set()
            await asyncio.sleep(0.05)
            return "second"
        finally:
            await asyncio.sleep(0.02)  # clean-up takes its time
            active -= 1

    first = asyncio.create_task(once.do("k", build))
    await started.wait()
    first.cancel()
    await asyncio.sleep(0)
    assert await once.do("k", build) == "second"
    assert most == 1


async def test_cancel_all_tells_waiters_that_the_daemon_ends() -> None:
    """A waiter of a run that the daemon ends gets DrainingError, not a cancellation."""
    once = Once()

    async def build() -> None:
        await asyncio.Event().wait()

    waiter = asyncio.create_task(once.do("k", build))
    await asyncio.sleep(0)
    assert await once.cancel_all() == 1
    with pytest.raises(DrainingError):
        await waiter


async def test_a_run_that_is_over_is_not_joined() -> None:
    """Who comes in the very step in which it ends gets a new one, and may ask until he has what he wants."""
    once, runs, ending = Once(), 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        ending.set()  # wakes the other before anybody else hears of the end

    async def other() -> None:
        await ending.wait()
        await once.do("key", work)

    await asyncio.gather(once.do("key", work), other())
    assert runs == 2
    assert len(once) == 0
