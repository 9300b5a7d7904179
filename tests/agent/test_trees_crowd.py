"""Many jobs on one tree at once, coming, writing, leaving, giving up: nobody ever sees who came before."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest
from test_trees import Place

from ray_envd.agent import trees as module
from ray_envd.agent.sessions import SessionSettings

pytestmark = pytest.mark.slow


class Crowd:
    """Jobs, and what each may see: marks of those who came since the tree was last unused."""

    def __init__(self, place: Place, chance: random.Random) -> None:
        self.place, self.chance = place, chance
        self.users: set[str] = set()
        self.since: set[str] = set()
        self.seen = 0

    async def job(self, name: str) -> None:
        """One job from its beginning to its end."""
        place = self.place
        while True:
            path = await place.obtain()
            if place.trees.are_there([str(path)]):  # no await from here on: as the manager takes references
                break
        if not self.users:
            self.since.clear()
        self.users.add(name)
        self.since.add(name)
        place.trees.enter(place.session.id, name, [str(path)])
        await self._work(path, name)
        self.users.discard(name)
        place.trees.leave(place.session.id, name)
        place.trees.shrink(place.session)

    async def _work(self, path: Path, name: str) -> None:
        await self._look(path)
        mark = path / f"mark-{name}"
        if self.chance.random() < 0.7:
            await asyncio.to_thread(mark.touch)
            await asyncio.sleep(self.chance.random() / 100)
            assert await asyncio.to_thread(mark.exists), "the tree was made anew while it was in use"
        if self.chance.random() < 0.3:
            await asyncio.to_thread((path / "__pycache__").mkdir, exist_ok=True)
        await self._look(path)

    async def _look(self, path: Path) -> None:
        names = await asyncio.to_thread(lambda: {each.name for each in path.iterdir()})
        marks = {name.removeprefix("mark-") for name in names if name.startswith("mark-")}
        assert marks <= self.since, f"left by others: {marks - self.since}"
        assert {"data", "empty", "module.py"} <= names
        self.seen += len(marks)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [None, 0], ids=["unlimited", "nothing unused stays"])
async def test_a_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, limit: int | None) -> None:
    """Whatever the order, a first user finds the tree as it was made, and a user's tree stays his."""
    chance = random.Random(seed)
    monkeypatch.setattr(module, "_PAUSE", 0.002)
    place = Place(tmp_path)
    if limit is not None:
        place.session.settings = SessionSettings(cache_bytes={"working_dir": limit})
    crowd = Crowd(place, chance)

    async def comer(number: int) -> None:
        for turn in range(12):
            await asyncio.sleep(chance.random() / 50)
            await crowd.job(f"{number}.{turn}")

    async def quitter() -> None:
        for _ in range(20):
            await asyncio.sleep(chance.random() / 50)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.random() / 200):
                    await place.obtain()

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(comer(number))
        group.create_task(quitter())
    assert crowd.seen
    assert place.made > 1
