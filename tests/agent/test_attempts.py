"""Preparations until they are done: retries, memory of failures, what ends with its last waiter."""

import asyncio

import pytest
from manager_world import World, ask

from ray_envd.agent.errors import (
    BuildError,
    EnvError,
    NetworkError,
)
from ray_envd.agent.room import Report
from ray_envd.cache.owner import Owner


async def test_a_lasting_failure_is_tried_once_and_remembered(world: World) -> None:
    """A permanent error costs one attempt, adds no reference, and is answered from memory afterwards."""
    session = await world.session()

    async def fail(_report: Report) -> None:
        raise BuildError("broken package", field="pip", remedy="mend it")

    world.installer.work = fail
    for _ in range(3):
        with pytest.raises(BuildError, match="broken package"):
            await world.manager.acquire(session, ask())
    assert world.installer.builds == 1
    state = world.manager.uses.states(session)[0]
    assert (state.success, state.references) == (False, 0)
    assert "broken package" in (state.error or "")


async def test_a_passing_failure_is_retried_with_the_clusters_settings(world: World) -> None:
    """RUNTIME_ENV_RETRY_TIMES attempts, and success on the last of them is success."""
    session = await world.session(retry_times=3)
    attempts = 0

    async def flaky(_report: Report) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise NetworkError("connection reset", field="pip")

    world.installer.work = flaky
    assert (await world.manager.acquire(session, ask())).built
    assert attempts == 3
    assert world.manager.uses.states(session)[0].success is True


async def test_failed_builds_leave_nothing_behind(world: World) -> None:
    """Neither a folder nor an object remains of a build that failed."""
    session = await world.session(retry_times=1)

    async def fail(_report: Report) -> None:
        raise BuildError("no", field="pip")

    world.installer.work = fail
    with pytest.raises(BuildError):
        await world.manager.acquire(session, ask())
    assert world.store.entries() == []
    objects = world.store.layout.user(Owner.current().uid).objects
    assert [path for path in objects.rglob("*") if path.is_file()] == []


async def test_the_last_waiter_gone_ends_the_build(world: World) -> None:
    """Nobody waits, nobody works: the build is cancelled and its folder is gone."""
    session = await world.session()
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(_report: Report) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    world.installer.work = endless
    waiter = asyncio.create_task(world.manager.acquire(session, ask()))
    await asyncio.wait_for(started.wait(), 5)
    waiter.cancel()
    await asyncio.wait_for(cancelled.wait(), 5)
    world.installer.work = None
    assert (await world.manager.acquire(session, ask())).built
    assert world.metrics.value("ray_envd_acquires_total", outcome="cancelled") == 1
    assert world.metrics.value("ray_envd_builds_total", kind="python", outcome="cancelled") == 1
    phase = {"kind": "python", "phase": "make", "outcome": "cancelled"}
    assert world.metrics.value("ray_envd_build_phase_seconds_count", **phase) == 1


async def test_an_unexpected_error_becomes_a_failure_without_a_traceback(world: World) -> None:
    """Whatever goes wrong inside, the raylet gets an answer that it can show."""
    session = await world.session()

    async def bug(_report: Report) -> None:
        raise ZeroDivisionError("inner detail")

    world.installer.work = bug
    with pytest.raises(EnvError, match="unexpected ZeroDivisionError") as caught:
        await world.manager.acquire(session, ask())
    assert "inner detail" not in str(caught.value)
