"""Looking at objects before they are handed out."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_envd.agent.guard import Guard
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Entry, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with two objects, whose file is stamped."""
    store = Store.open(tmp_path / "store")
    yield store
    store.close()


def put(store: Store, name: str) -> Entry:
    """A stored object, held."""
    build = store.begin(ObjectKey(Owner.current().uid, "python", digest_of(name)), Owner.current())
    (build.path / "file").write_text(name)
    return store.commit(build, summary=name, build_seconds=1, details={}, stamped=("file",))


class Slow(Guard):
    """Counts the looks, and lets one object hang as on a network file system that is away."""

    def __init__(self, store: Store, *, good_for: float = 3600) -> None:
        super().__init__(store, good_for=good_for)
        self.looks = 0
        self.back = threading.Event()
        self.hanging: ObjectKey | None = None
        check = store.check

        def slow(key: ObjectKey) -> str | None:
            self.looks += 1
            if key == self.hanging:
                self.back.wait(30)
            return check(key)

        store.check = slow  # type: ignore[method-assign] # only how long it takes


async def test_one_look_serves_all_and_for_a_while(store: Store) -> None:
    """Those who ask at the same time wait for the same look; afterwards memory answers."""
    entry = await asyncio.to_thread(put, store, "a")
    guard = Slow(store)
    assert not guard.knows((entry.key,), (0,))
    assert await asyncio.gather(*(guard.stands(entry) for _ in range(100))) == [True] * 100
    assert guard.looks == 1
    assert guard.knows((entry.key,), (0,))
    assert not guard.knows((entry.key,), (1,)), "another generation's files are others"
    assert guard.knows((), ())


async def test_an_answer_is_good_for_a_moment_only(store: Store) -> None:
    """What was removed since is seen at the next look."""
    entry = await asyncio.to_thread(put, store, "a")
    guard = Slow(store, good_for=0.0)
    assert await guard.stands(entry)
    assert not guard.knows((entry.key,), (0,))
    await asyncio.to_thread((entry.path / "file").unlink)
    assert not await guard.stands(entry)
    assert store.get(entry.key) is None
    (gone,) = store.entries()
    assert gone.damaged == "file cannot be read: No such file or directory"


async def test_everybody_hears_of_damage_after_it_was_dealt_with(store: Store) -> None:
    """Who asks for the object next must not find it in service."""
    entry = await asyncio.to_thread(put, store, "a")
    guard = Slow(store)
    told: list[str] = []

    async def deal_with(damaged: Entry, reason: str) -> None:
        await asyncio.sleep(0.01)
        told.append(f"{damaged.id}: {reason}")

    guard.on_damage = deal_with
    await asyncio.to_thread((entry.path / "file").write_text, "longer than it was")

    async def ask() -> tuple[bool, int]:
        return await guard.stands(entry), len(told)

    assert await asyncio.gather(*(ask() for _ in range(10))) == [(False, 1)] * 10
    assert told == [f"{entry.id}: file has changed"]


async def test_an_object_that_hangs_holds_up_nobody_else(store: Store) -> None:
    """Its file system is away; the loop goes on, and so do those who want other objects."""
    stuck, other = [await asyncio.to_thread(put, store, name) for name in ("a", "b")]
    guard = Slow(store)
    guard.hanging = stuck.key
    waiting = [asyncio.ensure_future(guard.stands(stuck)) for _ in range(50)]
    assert await guard.stands(other)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await guard.stands(stuck)
    assert not any(each.done() for each in waiting)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    waiting = [asyncio.ensure_future(guard.stands(stuck)) for _ in range(50)]
    await asyncio.sleep(0)
    guard.back.set()
    assert await asyncio.gather(*waiting) == [True] * 50
    assert guard.looks == 2, "nobody sent a second thread after the first"


async def test_what_a_hit_pays(store: Store) -> None:
    """Memory only: far below the microseconds that anybody would notice (the bound is a generous one)."""
    entry = await asyncio.to_thread(put, store, "a")
    guard = Slow(store)
    assert await guard.stands(entry)
    started = time.perf_counter()
    for _ in range(10_000):
        guard.knows((entry.key,), (0,))
    assert (time.perf_counter() - started) / 10_000 < 100e-6
