"""The manager on a real store: one preparation for all, deadlines, what a job is told, draining."""

import asyncio
import json
from pathlib import Path

import pytest
from manager_world import World, ask

from ray_envd.agent.errors import DrainingError, SetupTimeoutError
from ray_envd.agent.manager import Ask
from ray_envd.agent.progress import Event
from ray_envd.agent.room import Report


async def test_hundreds_of_requests_build_once_and_each_gets_a_reference(world: World) -> None:
    """A cold env that many ask for at once is built once, and every one of them holds it."""
    session = await world.session()
    envs = await asyncio.gather(*(world.manager.acquire(session, ask()) for _ in range(300)))
    assert world.installer.builds == 1
    assert len({env.context for env in envs}) == 1
    assert world.manager.uses.states(session)[0].references == 300


async def test_two_specs_that_lead_to_one_object_build_it_once(world: World) -> None:
    """Different runtime envs (and sessions) share what they have in common, also while it is built."""
    one, two = await world.session("one"), await world.session("two")
    other = Ask(json.dumps({"pip": {"digest": "aa" * 8}, "env_vars": {"X": "1"}}))
    await asyncio.gather(world.manager.acquire(one, ask()), world.manager.acquire(two, other))
    assert world.installer.builds == 1
    looked_up = {
        outcome: world.metrics.value("ray_envd_lookups_total", kind="python", outcome=outcome)
        for outcome in ("hit", "miss", "joined")
    }
    assert looked_up == {"hit": 0, "miss": 1, "joined": 1}
    assert [len(world.manager.uses.states(each)) for each in (one, two)] == [1, 1]


async def test_an_env_whose_object_was_collected_is_built_again(world: World) -> None:
    """A ready env is only as good as what it stands on."""
    session = await world.session()
    env = await world.manager.acquire(session, ask())
    world.manager.uses.release(session, ask().serialized, "")
    await asyncio.to_thread(world.store.evict, env.objects[0], world.references.is_referenced)
    assert world.manager.hit(session, ask()) is None
    await world.manager.acquire(session, ask())
    assert world.installer.builds == 2


async def test_each_waiter_has_its_own_deadline(world: World) -> None:
    """One waiter's time-out neither ends the build nor fails the other; it is not remembered as a failure."""
    session = await world.session()
    release = asyncio.Event()

    async def slow(_report: Report) -> None:
        await release.wait()

    world.installer.work = slow
    patient = asyncio.create_task(world.manager.acquire(session, ask(timeout=-1)))
    with pytest.raises(SetupTimeoutError, match="within the timeout of 1 seconds"):
        await world.manager.acquire(session, ask(timeout=1))
    release.set()
    assert (await patient).built
    assert world.installer.builds == 1
    assert world.manager.uses.states(session)[0].references == 1


async def test_draining_hangs_up_on_those_who_wait(world: World) -> None:
    """A daemon that ends refuses new work and ends what runs with an error that means: ask again."""
    session = await world.session()
    started = asyncio.Event()

    async def endless(_report: Report) -> None:
        started.set()
        await asyncio.Event().wait()

    world.installer.work = endless
    waiter = asyncio.create_task(world.manager.acquire(session, ask()))
    await asyncio.wait_for(started.wait(), 5)
    world.manager.draining = True
    assert await world.manager.attempts.runs.cancel_all() == 1
    with pytest.raises(DrainingError):
        await waiter
    with pytest.raises(DrainingError):
        await world.manager.acquire(session, ask("bb"))
    assert world.manager.uses.states(session) == []


async def test_the_set_up_log_tells_the_steps_and_the_reuse(world: World) -> None:
    """A job sees what happens for it; a second job that reuses the env is told so, once."""
    session = await world.session()
    events: list[Event] = []
    await world.manager.acquire(session, ask(job_id="01"), events.append)
    for _ in range(3):
        world.manager.hit(session, ask(job_id="02"))
    assert await asyncio.to_thread(world.logs.flushed().wait, 5)
    folder = session.log_dir or Path()
    first = await asyncio.to_thread((folder / "runtime_env_setup-01.log").read_text)
    second = await asyncio.to_thread((folder / "runtime_env_setup-02.log").read_text)
    assert "pip: building step" in first
    assert "runtime env is ready" in first
    assert second.count("reused") == 1
    assert [event.phase for event in events] == ["building"]


async def test_unknown_fields_are_a_warning_in_the_log(world: World) -> None:
    """As in stock: ignored, and said."""
    session = await world.session()
    await world.manager.acquire(session, Ask('{"mystery": 1}', job_id="03"))
    assert await asyncio.to_thread(world.logs.flushed().wait, 5)
    text = await asyncio.to_thread(((session.log_dir or Path()) / "runtime_env_setup-03.log").read_text)
    assert "WARNING" in text
    assert "runtime_env field mystery is not recognized" in text


async def test_values_of_env_vars_stand_in_a_private_file_only(world: World) -> None:
    """The context names the file; the file is its owner's alone; info shows no value."""
    session = await world.session()
    env = await world.manager.acquire(session, Ask('{"env_vars": {"TOKEN": "canary-value"}}'))
    assert "canary" not in env.context
    script = Path(json.loads(env.context)["command_prefix"][1])
    assert "canary-value" in await asyncio.to_thread(script.read_text)
    assert (await asyncio.to_thread(script.stat)).st_mode & 0o777 == 0o600
    assert "canary" not in world.manager.uses.states(session)[0].runtime_env
