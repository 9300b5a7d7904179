"""Who uses which env: exact references, what a session keeps, what it lets go."""

import asyncio
import time

import pytest
from helpers import wait_until
from manager_world import World, ask

from ray_envd.agent.manager import Ask
from ray_envd.cache.errors import NotReferencedError


async def test_the_age_of_what_is_not_used_counts_from_its_end(world: World) -> None:
    """What a job of days has used is not days old when the job ends, nor when its raylet dies."""
    session, store = await world.session(), world.manager.workshop.store
    env = await world.manager.acquire(session, ask())
    found = store._objects._stored[env.objects[0]]
    found.last_used -= 3600
    world.manager.uses.release(session, ask().serialized, "")
    assert time.time() - found.entry.last_used < 60
    await world.manager.acquire(session, ask())
    found.last_used -= 3600
    uses = found.uses
    await world.manager.uses.end(session.id)
    assert time.time() - found.entry.last_used < 60
    assert found.uses == uses


async def test_a_hit_counts_and_a_release_gives_back(world: World) -> None:
    """References go up by one with each success and down by one with each release, never below zero."""
    session = await world.session()
    assert world.manager.hit(session, ask()) is None
    env = await world.manager.acquire(session, ask())
    assert world.manager.hit(session, ask()) == env.context
    assert world.manager.uses.states(session)[0].references == 2
    for _ in range(2):
        world.manager.uses.release(session, ask().serialized, "worker")
    with pytest.raises(NotReferencedError):
        world.manager.uses.release(session, ask().serialized, "worker")


async def test_the_client_server_is_not_counted(world: World) -> None:
    """Ray Client's proxy never gives back what it asks for: stock does not count it."""
    session = await world.session()
    await world.manager.acquire(session, ask(source="client_server"))
    assert world.manager.hit(session, ask(source="client_server")) is not None
    assert world.manager.uses.states(session)[0].references == 0
    world.manager.uses.release(session, ask().serialized, "client_server")


async def test_references_survive_the_daemon(world: World) -> None:
    """A daemon that comes back finds counts and contexts; a hit needs no more than a look at the objects."""
    session = await world.session()
    context = (await world.manager.acquire(session, ask())).context
    world.manager.hit(session, ask())
    await asyncio.to_thread(world.close)
    await asyncio.to_thread(world.open)
    again = await world.session()
    assert world.manager.uses.states(again)[0].references == 2
    assert world.manager.hit(again, ask()) is None
    env = await world.manager.acquire(again, ask())
    assert (env.context, env.built) == (context, False)
    assert world.manager.hit(again, ask()) == context
    assert world.manager.uses.states(again)[0].references == 4
    assert world.installer.builds == 1


async def test_the_end_of_a_session_ends_its_references(world: World) -> None:
    """What only a lost session used can be collected."""
    session = await world.session()
    env = await world.manager.acquire(session, ask())
    assert world.references.is_referenced(env.objects[0])
    await world.manager.uses.end(session.id)
    assert not world.references.is_referenced(env.objects[0])


async def test_a_session_is_held_to_its_own_cache_size(world: World) -> None:
    """RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB of one cluster: its unused envs go, least recently used first."""
    small = await world.session("small", cache_bytes={"pip": 30_000})
    digests = ["aa", "bb", "cc", "dd"]
    for digest in digests:
        await world.manager.acquire(small, ask(digest))
    for digest in digests:
        world.manager.uses.release(small, ask(digest).serialized, "")

    def left() -> list[str]:
        return sorted(entry.key.digest[:2] for entry in world.store.entries())

    await asyncio.to_thread(wait_until, lambda: left() == ["cc", "dd"], 5, "two envs to go")

    def evicted() -> float:
        return world.metrics.value("ray_envd_evictions_total", kind="python", reason="session_limit")

    await asyncio.to_thread(wait_until, lambda: evicted() == 2, 5, "both to be counted")


async def test_what_is_used_counts_towards_a_sessions_cache_size(world: World) -> None:
    """As in stock: unused envs fit by themselves, but not beside the one that is used."""
    small = await world.session("small", cache_bytes={"pip": 30_000})
    for digest in ("aa", "bb", "cc"):
        await world.manager.acquire(small, ask(digest))
    for digest in ("bb", "cc"):
        world.manager.uses.release(small, ask(digest).serialized, "")

    def left() -> list[str]:
        return sorted(entry.key.digest[:2] for entry in world.store.entries())

    await asyncio.to_thread(wait_until, lambda: left() == ["aa", "cc"], 5, "one env to go")


async def test_a_sessions_limit_spares_what_others_could_use(world: World) -> None:
    """Another cluster without that limit keeps its env ready."""
    small = await world.session("small", cache_bytes={"pip": 0})
    large = await world.session("large")
    for session in (small, large):
        await world.manager.acquire(session, ask("aa"))
        world.manager.uses.release(session, ask("aa").serialized, "")
    await world.manager.acquire(small, ask("bb"))
    world.manager.uses.release(small, ask("bb").serialized, "")
    await asyncio.to_thread(wait_until, lambda: len(world.store.entries()) == 1, 5, "one env to go")
    assert world.manager.hit(large, ask("aa")) is not None


async def test_envs_that_nobody_uses_are_forgotten_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that lives long does not keep a record of every env it ever had; used ones stay."""
    monkeypatch.setattr("ray_envd.agent.envs._MOST_IDLE", 3)
    session = await world.session()
    kept = Ask('{"env_vars": {"N": "kept"}}')
    await world.manager.acquire(session, kept)
    asks = [Ask(f'{{"env_vars": {{"N": "{number}"}}}}') for number in range(10)]
    for each in asks:
        await world.manager.acquire(session, each)
        world.manager.uses.release(session, each.serialized, "")

    def left() -> int:
        scripts = list((session.runtime_env_dir / "ray-envd").iterdir())
        bound = world.references.envs(session.id)
        return len(scripts) if len(scripts) == len(bound) else -1

    await asyncio.to_thread(wait_until, lambda: left() == 4, 5, "six envs to be forgotten")
    assert world.manager.hit(session, kept) is not None
    assert world.manager.hit(session, asks[0]) is None
    assert await world.manager.acquire(session, asks[0])
