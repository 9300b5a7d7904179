"""Verification and repair beside the daemon's own housekeeping; what it finds is in daemon/test_verify.py."""

import asyncio

from manager_world import World, ask

from ray_envd.agent.integrity.service import Integrity


async def test_a_look_gives_way_to_a_repair(world: World) -> None:
    """What the patrol had begun to look at when it turned out to be damaged is removed all the same."""
    integrity = Integrity(world.workshop, world.references, lambda: False)
    session, store = await world.session(), world.store
    env = await world.manager.acquire(session, ask())
    world.manager.uses.release(session, ask().serialized, "")
    (key,) = env.objects
    looking = asyncio.Event()

    async def look() -> None:
        held = store.keep(key)
        assert held is not None
        looking.set()
        try:
            await asyncio.Event().wait()
        finally:
            store.unhold(held.key, held.generation)

    step = asyncio.create_task(integrity.steps.run(look()))
    await looking.wait()
    await asyncio.to_thread(store.condemn, key, "a file has changed")
    verdicts = [each async for each in integrity.verification.run(store.entries(), repair=True)]
    assert [each.reason for each in verdicts] == ["a file has changed"]
    assert verdicts[0].freed_bytes is not None
    assert store.entries() == []
    assert await asyncio.wait_for(step, 5) is False


async def test_what_somebody_stands_on_stays(world: World) -> None:
    """A repair removes nothing from below a worker."""
    integrity = Integrity(world.workshop, world.references, lambda: False)
    session, store = await world.session(), world.store
    env = await world.manager.acquire(session, ask())
    await asyncio.to_thread(store.condemn, env.objects[0], "a file has changed")
    (verdict,) = [each async for each in integrity.verification.run(store.entries(), repair=True)]
    assert (verdict.reason, verdict.freed_bytes) == ("a file has changed", None)
    assert [each.key for each in store.entries()] == [env.objects[0]]
