"""Room for builds: waiting for it, outgrowing it, and giving it back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

from ray_envd.agent.errors import DiskFullError, NeverFitsError, OutOfSpaceError
from ray_envd.agent.overtaking import FAIR, Overtaking
from ray_envd.agent.room import Room
from ray_envd.agent.space import Freed, Space
from ray_envd.agent.uv_caches import UvCaches
from ray_envd.cache.budget import Budget
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store

LIMIT = 1000


class Others:
    """Stands for the collector: frees what a test lets it."""

    def __init__(self) -> None:
        self.stored = self.free = 0
        self.again: float | None = None

    async def make_room(self, missing: int) -> Freed:
        freed = missing if self.free >= missing else 0
        self.stored, self.free = self.stored - freed, self.free - freed
        return Freed(freed, self.again)

    def holders(self) -> str:
        return "in use 12 B"


class World:
    """A space with a budget of a thousand bytes."""

    def __init__(self, store: Store) -> None:
        self.others = Others()
        self.disk_free = 10**9
        budget = Budget(LIMIT, lambda: self.disk_free, 0)
        self.space = Space(budget, lambda: self.others.stored, _thread, UvCaches(store, _thread), nullcontext)
        self.space.rooms = self.others
        self.told: list[str] = []

    def report(self, phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
        self.told.append(f"{phase} {detail} {done} {total}")

    def run(self, name: str, size: int, work: Callable[[Room], Awaitable[Any]]) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.space.run(name, size, work, field="pip", report=self.report))

    @property
    def reserved(self) -> int:
        return self.space.budget.reserved


async def _thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await asyncio.to_thread(Store.open, tmp_path / "store")
    yield World(store)
    await asyncio.to_thread(store.close)


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_until, condition, 10)


async def test_a_build_waits_for_what_another_has_reserved(world: World) -> None:
    """It begins once that is given back, and says meanwhile that it waits."""
    leave = asyncio.Event()

    async def first(_room: Room) -> None:
        await leave.wait()

    async def second(room: Room) -> int:
        return room.reservation.size

    one = world.run("one", 600, first)
    await until(lambda: world.reserved == 600)
    other = world.run("other", 700, second)
    await until(lambda: any("waiting for room" in each for each in world.told))
    leave.set()
    assert await other == 700
    await one
    assert world.reserved == 0


async def test_small_builds_do_not_overtake_a_large_one_for_ever(world: World) -> None:
    """They do at first; once it has waited for long they wait until it has had its room."""
    now, may_end, began = [0.0], asyncio.Event(), list[str]()
    world.space.overtaking = Overtaking(lambda: now[0])

    def work(name: str) -> Callable[[Room], Awaitable[None]]:
        async def noted(_room: Room) -> None:
            began.append(name)
            await may_end.wait()

        return noted

    tasks = [world.run("first", 400, work("first"))]
    await until(lambda: began == ["first"])
    tasks.append(world.run("large", 900, work("large")))
    await until(lambda: world.space.waiting == 1)
    tasks.append(world.run("small", 300, work("small")))
    await until(lambda: began == ["first", "small"])
    now[0] = FAIR
    await until(lambda: world.space.overtaking.is_barred(None))
    tasks.append(world.run("late", 300, work("late")))
    await until(lambda: any("goes first" in each for each in world.told))
    assert began == ["first", "small"]
    may_end.set()
    await asyncio.gather(*tasks)
    assert began == ["first", "small", "large", "late"]


async def test_nothing_is_waited_for_that_nobody_gives(world: World) -> None:
    """The error says who holds what, and that later may be another time."""
    world.others.stored = 600

    async def work(_room: Room) -> None:
        raise AssertionError

    with pytest.raises(OutOfSpaceError, match="in use 12 B") as refused:
        await world.run("one", 500, work)
    assert "600 B are stored" in str(refused.value)
    with pytest.raises(NeverFitsError):
        await world.run("one", LIMIT + 1, work)


async def test_room_is_made_by_a_collection(world: World) -> None:
    """Now, or as soon as what is too young is old enough."""

    async def work(room: Room) -> int:
        return room.reservation.size

    world.others.stored, world.others.free = 600, 300
    assert await world.run("one", 500, work) == 500
    world.others.stored, world.others.again = 600, 0.05
    task = world.run("one", 500, work)
    await until(lambda: any("waiting for room" in each for each in world.told))
    world.others.free = 300
    assert await task == 500


@pytest.mark.parametrize("asks", [True, False])
async def test_a_build_that_outgrows_its_room_starts_over_once_there_is_more(
    world: World, *, asks: bool
) -> None:
    """It is undone first, so that what it held is there for others; both ways to ask for more do so."""
    leave, sizes = asyncio.Event(), list[int]()

    async def other(_room: Room) -> None:
        await leave.wait()

    async def work(room: Room) -> None:
        sizes.append(room.reservation.size)
        if asks:
            await room.secure(800)
        elif room.reservation.size < 800:
            room.need(800)
            await asyncio.sleep(30)

    holder = world.run("other", 500, other)
    await until(lambda: world.reserved == 500)
    grown = world.run("grown", 100, work)
    await until(lambda: sizes == [100] and world.reserved == 500)
    leave.set()
    await grown
    await holder
    assert sizes == [100, 800]


async def test_a_build_that_outgrows_the_budget_is_ended(world: World) -> None:
    """By the error that says so; where there is more at once, it goes on."""
    ended = asyncio.Event()

    async def work(room: Room) -> None:
        room.need(900)
        await until(lambda: room.reservation.size == 900)
        room.need(1100)
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    with pytest.raises(NeverFitsError, match=r"1\.10 kB are needed"):
        await world.run("one", 100, work)
    assert ended.is_set()
    assert world.reserved == 0


async def test_a_cancellation_from_outside_stays_one(world: World) -> None:
    """Also of a build that has just outgrown its room; and one that has finished is not ended by it."""

    async def work(room: Room) -> None:
        room.need(1100)
        leaving.cancel()
        await asyncio.sleep(30)

    leaving = world.run("one", 100, work)
    with pytest.raises(asyncio.CancelledError):
        await leaving

    async def publishes(room: Room) -> str:
        room.finish()
        room.need(1100)
        await asyncio.sleep(0.2)
        return "published"

    assert await world.run("two", 100, publishes) == "published"
    assert world.reserved == 0


async def test_what_a_build_writes_is_seen(world: World, tmp_path: Path) -> None:
    """More than was set aside is set aside, or ends the build; less is not asked of the disk again."""
    path = tmp_path / "file"

    async def work(room: Room) -> int:
        room.writes_to(path, Owner.current())
        await asyncio.to_thread(path.write_bytes, b"x" * 4096)
        await until(lambda: room.reservation.size > 4096)
        return room.reservation.size

    world.space.budget = Budget(10**6, lambda: world.disk_free, 0)
    assert await world.run("one", 100, work) == 5120
    world.space.budget = Budget(LIMIT, lambda: world.disk_free, 0)
    with pytest.raises(NeverFitsError):
        await world.run("two", 100, work)


async def test_after_a_full_disk_a_build_asks_for_what_it_had_written(world: World) -> None:
    """So that its next attempt waits before the work and not in the midst of it."""

    async def work(room: Room) -> int:
        if room.reservation.size == 100:
            room.reservation.wrote(400)
            raise DiskFullError("full")
        return room.reservation.size

    with pytest.raises(DiskFullError):
        await world.run("one", 100, work)
    assert await world.run("one", 100, work) == 500
    assert await world.run("another", 200, work) == 200
