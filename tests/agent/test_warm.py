"""Keeping envs warm, on a real store and manager: retries, readiness, pins, changes of the file."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from manager_world import FakeInstaller, World, ask

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.errors import EnvError, InvalidSpecError, NetworkError
from ray_envd.agent.local_sessions import LocalSessions
from ray_envd.agent.prefetch import Prefetcher
from ray_envd.agent.warm import Pauses, Warm
from ray_envd.agent.warm_file import Wanted
from ray_envd.cache.pins import Pins

QUICK = Pauses(look=0.02, first=0.02, longest=0.05, lasting=60, refresh=60)


class Installer(FakeInstaller):
    """Fails as the test says, by the first two digits of what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, EnvError] = {}
        self.asked: list[str] = []
        self.queues: set[str] = set()

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        name = value["digest"][:2]
        self.asked.append(name)
        self.queues.add(bench.session.queue)
        if name in self.errors:
            raise self.errors[name]
        return await super().prepare(value, bench)


class Node(World):
    """A daemon's parts that warm, which a test can stop and start anew."""

    installer: Installer

    def __init__(self, root: Path) -> None:
        self.root, self.file, self.pauses = root, root / "warm.json", QUICK
        self.installer = Installer()
        self.open()

    def write(self, *envs: str, **more: Any) -> None:
        """Lets the file want envs that lead to objects of these digits."""
        tables = [{"name": each, "runtime_env": {"pip": {"digest": each * 8}}, **more} for each in envs]
        once = {"RUNTIME_ENV_RETRY_TIMES": "1"}
        aside = self.file.with_suffix(".new")
        aside.write_text(json.dumps({"python": "/ray/python", "environment": once, "envs": tables}))
        aside.replace(self.file)

    async def wants(self, *envs: str, **more: Any) -> None:
        """:meth:`write`, off the loop."""
        await asyncio.to_thread(self.write, *envs, **more)

    async def start(self) -> None:
        """Warms what the file says."""
        sessions = LocalSessions(self.manager, self.store, None)
        pins = await asyncio.to_thread(Pins, self.store, self.store.layout.warm_pins)
        prefetcher = Prefetcher(self.manager, sessions)
        thread = self.workshop.thread
        self.warm = Warm(prefetcher, self.store, pins, self.file, thread, self.pauses)
        self.warm.start(await asyncio.to_thread(Wanted.at, self.file))

    async def restart(self) -> None:
        """Another daemon on the same store."""
        await self.warm.stop()
        await asyncio.to_thread(self.close)
        await asyncio.to_thread(self.open)
        await self.start()

    def pinned(self) -> set[str]:
        """The first two digits of what is pinned."""
        return {entry.key.digest[:2] for entry in self.store.entries() if entry.pinned}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for it."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - of things that know of no event
                await asyncio.sleep(0.01)

    async def until_ready(self, count: int) -> None:
        """Waits until so many are."""
        await self.until(lambda: self.warm.count()["ready"] == count)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = await asyncio.to_thread(Node, tmp_path)
    yield made
    await made.warm.stop()
    await asyncio.to_thread(made.close)


async def test_what_the_file_wants_is_there_pinned_and_held_by_nobody(node: Node) -> None:
    """All as one session where builds wait; their own have ended. A raylet that asks later finds it."""
    await node.wants("aa", "bb", "cc")
    await node.start()
    assert node.warm.count() == {"wanted": 3, "ready": 0, "failed": 0}
    assert node.warm.missing() == [
        "3 of 3 runtime envs are not warm",
        *(f"{name}: waiting" for name in ("aa", "bb", "cc")),
    ]
    await node.until_ready(3)
    assert (node.warm.missing(), node.pinned()) == ([], {"aa", "bb", "cc"})
    assert node.installer.queues == {"warm"}
    assert (node.references.total(), node.references.sessions()) == (0, [])
    assert not (await node.manager.acquire(await node.session(), ask("bb"))).built


async def test_what_may_pass_is_tried_again_and_what_lasts_holds_nobody_up(node: Node) -> None:
    """A registry that comes up late is waited for; a wrong env counts as failed, and as done."""
    node.installer.errors = {"aa": NetworkError("connection refused"), "bb": InvalidSpecError("nonsense")}
    await node.wants("aa", "bb", "cc")
    await node.start()
    await node.until(lambda: node.installer.asked.count("aa") > 3)
    await node.until_ready(1)
    assert node.warm.count() == {"wanted": 3, "ready": 1, "failed": 2}
    first, only = node.warm.missing()
    assert first == "1 of 3 runtime envs are not warm"
    assert only.startswith("aa: ")
    assert "connection refused" in only
    del node.installer.errors["aa"]
    await node.until_ready(2)
    assert (node.warm.missing(), node.installer.asked.count("bb")) == ([], 1)


async def test_the_file_is_read_again_when_it_changes(node: Node) -> None:
    """New ones are prepared, what left is unpinned, what failed begins anew; ready is ready."""
    node.installer.errors = {"bb": InvalidSpecError("nonsense")}
    await node.wants("aa", "bb")
    await node.start()
    await node.until(lambda: node.warm.count() == {"wanted": 2, "ready": 1, "failed": 1})
    node.installer.errors = {"cc": NetworkError("connection refused")}
    await node.wants("bb", "cc")
    await node.until(lambda: node.warm.count() == {"wanted": 2, "ready": 1, "failed": 1})
    await node.until(lambda: node.pinned() == {"bb"})
    assert node.warm.missing() == []
    assert node.store.get(next(e.key for e in node.store.entries() if e.key.digest[:2] == "aa"))


async def test_a_file_that_is_wrong_or_gone_changes_nothing(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """What it said before still holds, the log says why, and the next good one is taken."""
    await node.wants("aa")
    await node.start()
    await node.until_ready(1)
    await asyncio.to_thread(node.file.write_text, '{"envs": [')
    await node.until(lambda: "is not JSON" in caplog.text)
    await asyncio.to_thread(node.file.unlink)
    await node.until(lambda: "cannot be read" in caplog.text)
    assert (node.warm.count()["wanted"], node.pinned()) == (1, {"aa"})
    await node.wants("bb")
    await node.until(lambda: node.pinned() == {"bb"})


async def test_the_next_daemon_goes_on_with_what_is_pinned(node: Node) -> None:
    """Nothing is built again; what has left the file meanwhile is let go."""
    await node.wants("aa", "bb")
    await node.start()
    await node.until_ready(2)
    await node.wants("bb")
    await node.restart()
    await node.until_ready(1)
    await node.until(lambda: node.pinned() == {"bb"})
    assert node.installer.builds == 2


async def test_what_is_damaged_or_unpinned_is_prepared_again(node: Node) -> None:
    """As long as the file wants it, it is there and pinned."""
    await node.wants("aa")
    await node.start()
    await node.until_ready(1)
    (entry,) = node.store.entries()
    await asyncio.to_thread(node.store.condemn, entry.key, "a bit has flipped")
    await node.until(lambda: node.installer.builds == 2 and node.pinned() == {"aa"})
    await node.until_ready(1)
    await asyncio.to_thread(node.store.unpin, entry.key)
    await node.until(lambda: node.pinned() == {"aa"})
    await node.until_ready(1)
    assert node.installer.builds == 2


async def test_what_is_not_to_be_pinned_is_prepared_once(node: Node) -> None:
    """It may be collected, and is not fetched again as long as the daemon lives."""
    await node.wants("aa", pin=False)
    await node.start()
    await node.until_ready(1)
    assert node.pinned() == set()
    (entry,) = node.store.entries()
    await asyncio.to_thread(node.store.evict, entry.key, lambda _key: False)
    await asyncio.sleep(10 * QUICK.look)
    assert node.installer.builds == 1


async def test_what_is_there_is_prepared_anew_now_and_then(node: Node) -> None:
    """Tags move, and so do the newest versions. While that fails, what is there still counts."""
    node.pauses = Pauses(look=0.02, first=0.02, longest=0.05, lasting=0.05, refresh=0.05)
    await node.wants("aa")
    await node.start()
    await node.until(lambda: node.installer.asked.count("aa") > 3)
    node.installer.errors = {"aa": NetworkError("connection refused")}
    count = len(node.installer.asked)
    await node.until(lambda: len(node.installer.asked) > count + 3)
    assert node.warm.count() == {"wanted": 1, "ready": 1, "failed": 0}
    assert (node.pinned(), node.installer.builds) == ({"aa"}, 1)
