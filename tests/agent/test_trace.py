import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from ray_envd.agent.trace import Happening, Trace
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.records import Entry, Facts
from ray_envd.cache.sizes import Size, Unit


def made(name: str) -> Entry:
    """An object on paper."""
    facts = Facts(name, Size(10, (Unit("u", 5, "f"),)), 0.0, 2.5, {}, fetched_bytes=7)
    return Entry(ObjectKey(3, "python", digest_of(name)), Path("/nowhere"), facts, 0.0, 1)


def names(lines: list[Happening]) -> list[tuple[str, int]]:
    """What happened, and how often."""
    return [(line.what, line.number) for line in lines]


async def test_everything_is_heard_in_its_order() -> None:
    """What is stored comes first, with its size and cost; then each thing that happens, by key."""
    trace, stored, later = Trace(), made("a"), made("b")
    async with aclosing(trace.listen([stored])) as lines:
        heard = [await anext(lines)]
        trace.built(later)
        trace.told("acquire", [stored.key, later.key])
        trace.told("release", [stored.key], 2)
        trace.told("evict", [later.key])
        heard += [await anext(lines) for _ in range(5)]
    assert names(heard) == [
        ("stored", 1),
        ("build", 1),
        ("acquire", 1),
        ("acquire", 1),
        ("release", 2),
        ("evict", 1),
    ]
    assert [line.key for line in heard] == [
        stored.key,
        later.key,
        stored.key,
        later.key,
        stored.key,
        later.key,
    ]
    assert (heard[1].size, heard[1].build_seconds, heard[1].fetched_bytes) == (later.size, 2.5, 7)


async def test_nothing_is_kept_for_nobody() -> None:
    """What happened before somebody listened is not told, and who has gone is forgotten."""
    trace = Trace()
    trace.told("acquire", [made("a").key])
    async with aclosing(trace.listen([made("s")])) as lines:
        await anext(lines)
        assert trace.listeners == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(lines), 0.05)
    assert trace.listeners == 0


async def test_who_is_slow_is_told_how_much_he_missed() -> None:
    """The lines that waited come first, then the number of those that did not; another hears all."""
    trace, key = Trace(), made("a").key
    async with (
        aclosing(trace.listen([made("s")], most=2)) as slow,
        aclosing(trace.listen([made("s")])) as quick,
    ):
        await anext(slow), await anext(quick)
        for _ in range(5):
            trace.told("acquire", [key])
        assert names([await anext(slow) for _ in range(3)]) == [("acquire", 1), ("acquire", 1), ("lost", 3)]
        assert names([await anext(quick) for _ in range(5)]) == [("acquire", 1)] * 5
        trace.told("evict", [key])
        assert names([await anext(slow)]) == [("evict", 1)]
