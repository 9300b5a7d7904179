"""What the daemon tells of objects and sessions."""

import asyncio

from manager_world import World, ask

from ray_envd.agent.listing import Listing


async def test_a_session_that_comes_back_has_its_references_at_once(world: World) -> None:
    """From the hello of its link on, also before the new daemon has read what the session's envs are."""
    session = await world.session()
    await world.manager.acquire(session, ask())
    world.manager.hit(session, ask())
    await asyncio.to_thread(world.close)
    await asyncio.to_thread(world.open)
    assert world.manager.uses.states(session) == []
    (listed,) = Listing(world.store, world.references).sessions([(session, 0)])
    assert (listed.id, listed.references) == (session.id, 2)
