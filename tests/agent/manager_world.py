"""A manager on a real store, for tests: everything below it is real, but for what fills an object."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.guard import Guard
from ray_envd.agent.installers import Installers
from ray_envd.agent.manager import Ask, Manager
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.room import Report, Room
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.agent.setup_log import SetupLogWriter
from ray_envd.agent.slots import Slots
from ray_envd.agent.trees import Trees
from ray_envd.agent.workshop import Made, Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.owner import Owner
from ray_envd.cache.references import References
from ray_envd.cache.store import Build, Store

Work = Callable[[Report], Awaitable[None]]


class FakeInstaller:
    """Stands for ``pip``: its value names an object; what the build does is the test's choice."""

    field = "pip"

    def __init__(self) -> None:
        self.builds = 0
        self.work: Work | None = None

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        key = bench.key("python", value["digest"])

        async def fill(build: Build, report: Report, _room: Room) -> Made:
            self.builds += 1
            report("building", "step")
            if self.work is not None:
                await self.work(report)
            await asyncio.to_thread((build.path / "file").write_text, "x" * 5000)
            return Made({})

        _, built = await bench.obtain(key, fill, field="pip", summary="fake", reserve=1000)
        return Contribution(objects=(key,), built=built, variables={"FAKE": value["digest"]})


class World:
    """A manager with everything below it, which a test can stop and start anew on the same store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.installer = FakeInstaller()
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.root / "store")
        self.references = References.open(self.store.layout.sessions)
        self.metrics, self.logs = Metrics(), SetupLogWriter()
        self.budget = Budget(None, lambda: shutil.disk_usage(self.root).free, 0)
        self.workshop = Workshop(self.store, self.budget, self.metrics, Slots(2, 2))
        self.workshop.guard = Guard(self.store, good_for=3600)
        self.trees = Trees()
        preparation = Preparation(self.workshop, Installers(lambda: {"pip": self.installer}))
        self.manager = Manager(
            self.workshop, self.references, preparation, self.trees, self.logs, self.metrics
        )

    def close(self) -> None:
        self.logs.close()
        self.workshop.close()
        self.references.close()
        self.store.close()

    async def session(self, name: str = "s", **settings: Any) -> Session:
        folder = self.root / name
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        chosen = SessionSettings(retry_interval=0.01, **settings)
        session = Session(
            name,
            Owner.current(),
            "/ray/python",
            {},
            folder,
            log_dir=folder,
            node_ip="10.0.0.1",
            settings=chosen,
        )
        await self.manager.uses.start(session)
        return session


def ask(digest: str = "aa", **more: Any) -> Ask:
    more.setdefault("job_id", "01000000")
    return Ask(json.dumps({"pip": {"digest": digest * 8}}), **more)
