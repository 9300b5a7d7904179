"""Everything from an image to an environment over it, without a raylet: what the tests of that share."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from podman_world import PodmanWorld

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.images import Image
from ray_envd.agent.containers.platform import ImagePlatform, Platforms
from ray_envd.agent.environments import Environment, Environments
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.progress import Event, Progress
from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.agent.python.spec import parse_pip, parse_uv
from ray_envd.agent.sessions import Session
from ray_envd.agent.slots import Slots
from ray_envd.agent.spec import parse
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store


@dataclass
class OverlayWorld:
    """A store, a user with a raylet's environment, and images that are there."""

    root: Path
    python: str
    environment: dict[str, str]
    ray_version: str = "2.60.0"
    owner: Owner = field(default_factory=Owner.current)
    events: list[Event] = field(default_factory=list)

    def open(self) -> "OverlayWorld":
        self.store = Store.open(self.root / "store")
        budget = Budget(None, lambda: shutil.disk_usage(self.root).free, 0)
        self.workshop = Workshop(self.store, budget, Metrics(), Slots(2, 2))
        interpreters = Interpreters(lambda owner: self.store.user_dir(owner).interpreters)
        self.platforms = Platforms(Hosts(str(self.store.layout.root)), interpreters)
        self.environments = Environments(self.store, interpreters, resolution_ttl=600)
        return self

    def close(self) -> None:
        self.workshop.close()
        self.store.close()

    @asynccontextmanager
    async def bench(self, image: str, **fields: Any) -> AsyncIterator[Bench]:
        """A bench of a runtime env with an image that has this id; with none on the host."""
        spec = parse(json.dumps({**({"image": "localhost/small"} if image else {}), **fields}))
        folder = self.root / "session"
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        session = Session(
            "s", self.owner, self.python, self.environment, folder, ray_version=self.ray_version
        )
        progress = Progress()
        progress.listen(self.events.append)
        bench = Bench(self.workshop, session, spec, progress)
        try:
            yield bench
        finally:
            bench.close()

    async def platform(self, image: str, bench: Bench) -> ImagePlatform:
        """What the image installer does once it has the image."""
        assert bench.spec.image is not None
        assert bench.platform is not None
        there = Image(cast("Any", None), image, image, {}, is_new=False)
        platform = await self.platforms.of(there, bench.spec.image, bench)
        bench.platform.set_result(platform)
        return platform

    async def obtain(self, image: str, **fields: Any) -> Environment:
        """The environment of a pip or uv field over an image."""
        async with self.bench(image, **fields) as bench:
            if image:
                await self.platform(image, bench)
            value = parse_uv(fields["uv"]) if "uv" in fields else parse_pip(fields["pip"])
            return await self.environments.obtain(value, bench)


def image_id(world: PodmanWorld, name: str) -> str:
    """The id of an image that is there."""
    return world.podman("image", "inspect", "--format={{.Id}}", name).strip()


def raylet_environment(world: PodmanWorld, home: Path) -> dict[str, str]:
    """A raylet's, with things in it that an image's Python must not see."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return {
        **kept,
        **world.variables,
        "HOME": str(home),
        "PYTHONPATH": "/of/the/host",
        "UV_HTTP_RETRIES": "0",
    }
