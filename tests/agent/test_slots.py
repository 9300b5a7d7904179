"""Places for builds: how many, in whose turn, and which lane."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from ray_envd.agent.slots import Slots


class Builds:
    """Builds that begin when they get a place and end when they are told to."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.begun: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def add(self, name: str, session: str) -> None:
        """Asks for a place."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, session))
        await settle()

    async def _run(self, name: str, session: str) -> None:
        async with self.slots.slot(session, name):
            self.begun.append(name)
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        """Lets it end."""
        self._ends[name].set()
        await self.tasks[name]
        await settle()

    async def cancel(self, name: str) -> None:
        """Nobody wants it any more."""
        self.tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.tasks[name]
        await settle()

    async def end_all(self) -> list[str]:
        """Ends one after the other; returns the order in which all have begun."""
        while running := [name for name in self.begun if not self.tasks[name].done()]:
            await self.end(running[0])
        return self.begun


async def settle() -> None:
    """Everything that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a timer of another's
            await asyncio.sleep(0.002)


async def test_sessions_take_turns() -> None:
    """One with a hundred builds does not keep one with two waiting; each gets its own in order."""
    builds = Builds(Slots(1, 1, 1000))
    await builds.add("first", "x")
    for number in range(100):
        await builds.add(f"a{number}", "a")
    for number in range(2):
        await builds.add(f"b{number}", "b")
    await builds.add("c0", "c")
    assert builds.slots.waiting == 103
    order = await builds.end_all()
    assert order[:6] == ["first", "a0", "b0", "c0", "a1", "b1"]
    assert order[6:] == [f"a{number}" for number in range(2, 100)]
    assert builds.slots.waiting == builds.slots.young == 0


async def test_a_build_that_another_session_waits_for_takes_its_turn() -> None:
    """The last of a long queue is built next if somebody else needs it too; and only once."""
    builds = Builds(Slots(1, 1, 1000))
    await builds.add("first", "x")
    for number in range(10):
        await builds.add(f"a{number}", "a")
    builds.slots.join("b", "a9")
    builds.slots.join("b", "a9")
    builds.slots.join("b", "first")
    builds.slots.join("b", "unknown")
    order = await builds.end_all()
    assert order == ["first", "a0", "a9", *(f"a{number}" for number in range(1, 9))]


async def test_long_builds_make_place_for_others_within_bounds() -> None:
    """Once old they leave the young lane, while the old one has room; together they are never more."""
    builds = Builds(Slots(1, 2, 0.02))
    for number in range(5):
        await builds.add(f"a{number}", "a")
    await until(lambda: len(builds.begun) == 3)
    # The third is old too by now, but there is no room for it.
    await until(lambda: len(builds.slots._late) == 1)
    assert (builds.slots.old, builds.slots.young, builds.slots.waiting) == (2, 1, 2)
    await builds.end("a0")
    assert (builds.slots.old, builds.slots.young, builds.slots.waiting) == (2, 1, 1)
    assert builds.begun == ["a0", "a1", "a2", "a3"]
    await builds.end_all()
    assert len(builds.begun) == 5


async def test_one_that_leaves_the_queue_is_skipped() -> None:
    """Cancelled while it waits, it takes no place and holds up nobody; its session's turn is not lost."""
    builds = Builds(Slots(1, 1, 1000))
    for name in ("a0", "a1", "a2"):
        await builds.add(name, "a")
    await builds.cancel("a1")
    assert builds.slots.waiting == 1
    await builds.end("a0")
    assert builds.begun == ["a0", "a2"]
    await builds.cancel("a2")
    assert builds.slots.young == builds.slots.waiting == 0


async def test_cancelled_at_the_moment_of_its_turn() -> None:
    """A place that is given to one who goes at the same moment is given on."""
    builds = Builds(Slots(1, 1, 1000))
    end = asyncio.Event()

    async def first() -> None:
        async with builds.slots.slot("a"):
            await end.wait()
        # The place is a1's by now, and it has not woken yet.
        builds.tasks["a1"].cancel()

    task = asyncio.create_task(first())
    await settle()
    for name in ("a1", "a2"):
        await builds.add(name, "a")
    end.set()
    await task
    await settle()
    assert builds.begun == ["a2"]
    await builds.end("a2")
    assert builds.slots.young == 0


async def test_work_inside_of_work_has_its_place() -> None:
    """Also in a task of its own; a stranger has to wait."""
    slots = Slots(1, 1, 1000)

    async def inner() -> int:
        async with slots.slot("a"):
            return slots.young

    async with slots.slot("a"):
        assert await asyncio.create_task(inner()) == 1
        assert await inner() == 1
        assert slots.young == 1
    assert slots.young == 0


async def test_a_lent_place_is_somebody_elses_until_it_is_needed_again() -> None:
    """Who waits for something else holds nobody up, and comes back before the others of its session."""
    slots, order = Slots(1, 1, 1000), []
    waits, goes_on = asyncio.Event(), asyncio.Event()

    async def lends() -> None:
        async with slots.slot("a"):
            async with slots.lent():
                waits.set()
                await goes_on.wait()
            order.append("back")

    async def other(name: str) -> None:
        async with slots.slot("a"):
            order.append(name)
            goes_on.set()
            await settle()

    lending = asyncio.create_task(lends())
    await waits.wait()
    await asyncio.gather(*(other(name) for name in ("one", "two", "three")))
    await lending
    assert order == ["one", "back", "two", "three"]
    assert slots.young == slots.waiting == 0


async def test_one_that_lends_and_fails_leaves_nothing() -> None:
    """No place is taken again for work that is over."""
    slots = Slots(1, 1, 1000)
    async with slots.slot("other"):
        pass
    with pytest.raises(ValueError, match="over"):
        async with slots.slot("a"), slots.lent():
            raise ValueError("over")
    assert slots.young == slots.old == slots.waiting == 0


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_places_are_exact(seed: int) -> None:
    """Builds come, grow old, lend, are joined, fail, are cancelled: bounds hold, and no place is lost."""
    chance = random.Random(seed)
    slots = Slots(chance.randint(1, 3), chance.randint(1, 3), 0.003)
    most = slots._most_young + slots._most_old
    running, outcomes, nested = 0, Counter[str](), chance.random()

    async def build(number: int) -> None:
        nonlocal running
        async with slots.slot(f"s{number % 3}", number):
            running += 1
            try:
                assert running <= most
                await asyncio.sleep(chance.random() * 0.006)
                if chance.random() < 0.1:
                    raise ValueError("fails")
            finally:
                running -= 1
            if chance.random() < nested:
                async with slots.lent():
                    await asyncio.sleep(chance.random() * 0.003)
            async with slots.slot("x"):
                assert slots.young + slots.old <= most
        outcomes["well"] += 1

    tasks = []
    for number in range(120):
        tasks.append(asyncio.create_task(build(number)))
        if chance.random() < 0.3:
            slots.join("joins", chance.randrange(number + 1))
        if chance.random() < 0.2:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [each for each in results if isinstance(each, Exception) and not isinstance(each, ValueError)]
    assert not failed
    assert outcomes["well"] == results.count(None) > 20
    assert slots.young == slots.old == slots.waiting == 0
    assert not slots._queues
    assert not slots._late
