"""An environment over an image next to the same one on the host, and to a bare container.

``make bench`` runs it; by hand: ``.venv/bin/python benchmarks/image_overlay.py --rounds 10``.
What is measured from where to where stands in README.md. The exit code is 1 if a measurement was not what it
claims to be.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools"), str(HERE.parent / "tests")]

# Found by the line above:
import small_image
from figures import Figures, Series
from helpers import make_wheel
from podman_world import PodmanWorld
from processes import NodeError
from script import circumstances, console, parser, run, temporary

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.images import Images
from ray_envd.agent.containers.platform import Platforms
from ray_envd.agent.environments import Environments
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.podman.host import Hosts, PodmanHost
from ray_envd.agent.progress import Progress
from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.agent.python.spec import parse_pip
from ray_envd.agent.sessions import Session
from ray_envd.agent.slots import Slots
from ray_envd.agent.spec import parse
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store

SERIES = {
    "bare": Series("a bare container: podman run --rm IMAGE python -c pass"),
    "host": Series("a new environment of two packages on the host, its wheels in a local folder"),
    "image": Series("the same over an image that is there"),
    "sum": Series("on the host, and a bare container beside"),
    "hit": Series("the environment over the image is there: another request"),
}
RATIOS = {
    "over": ("over an image to the host", "image", "host"),
    "plus": ("over an image to the host and a bare container", "image", "sum"),
}
IMAGE = f"localhost/{small_image.NAME}"


class Node:
    """What of a daemon builds environments, on podman with a storage of its own."""

    def __init__(self, folder: Path, world: PodmanWorld, loop: asyncio.AbstractEventLoop) -> None:
        self.folder, self.owner = folder, Owner.current()
        self.variables = {"PATH": os.environ["PATH"], "HOME": str(folder), **world.variables}
        self.store = Store.open(folder / "store")
        budget = Budget(None, lambda: shutil.disk_usage(folder).free, 0)
        self.workshop = Workshop(self.store, budget, Metrics(), Slots(2, 2))
        interpreters = Interpreters(lambda owner: self.store.user_dir(owner).interpreters)
        self.hosts = Hosts(str(folder))
        self.images = Images(self.workshop, self.hosts, loop, max_age=float("inf"))
        self.platforms = Platforms(self.hosts, interpreters)
        self.environments = Environments(self.store, interpreters, resolution_ttl=600)
        self.host: PodmanHost | None = None

    async def obtain(self, packages: list[str], *, image: bool) -> tuple[bool, float]:
        """Whether the environment was built, and how many milliseconds it took."""
        fields = {"pip": packages, **({"image": IMAGE} if image else {})}
        spec = parse(json.dumps(fields))
        version = small_image.RAY_VERSION
        session = Session(
            "bench", self.owner, sys.executable, self.variables, self.folder, ray_version=version
        )
        bench = Bench(self.workshop, session, spec, Progress())
        began = time.perf_counter()
        try:
            if spec.image is not None and bench.platform is not None:
                there = await self.images.obtain(spec.image, bench)
                platform = await self.platforms.of(there, spec.image, bench)
                bench.platform.set_result(platform)
                self.host = platform.host
            environment = await self.environments.obtain(parse_pip(packages), bench)
            return environment.is_new, (time.perf_counter() - began) * 1000
        finally:
            bench.close()

    async def bare(self) -> float:
        """How many milliseconds a container takes that does nothing."""
        if self.host is None:
            raise NodeError("podman was not asked yet")
        began = time.perf_counter()
        words = (*self.host.run_options, "--log-driver=none", IMAGE, small_image.PYTHON, "-ISc", "pass")
        done = await self.host.podman("run", "--rm", *words)
        if done.returncode:
            raise NodeError("\n".join(done.lines))
        return (time.perf_counter() - began) * 1000

    async def close(self) -> None:
        """Ends podman's service, and the store."""
        await self.images.close()
        await asyncio.to_thread(self.workshop.close)
        await asyncio.to_thread(self.store.close)


async def rounds_of(folder: Path, world: PodmanWorld, rounds: int) -> None:
    """Each in turn; a round's packages were never seen before."""
    node = await asyncio.to_thread(Node, folder, world, asyncio.get_running_loop())
    try:
        for number in range(-1, rounds):
            console.print(f"[dim]round {number + 1} of {rounds}[/]")
            wheels = folder / f"wheels{number}"
            await asyncio.to_thread(make_wheel, wheels, "one", f"1.{number + 1}")
            await asyncio.to_thread(make_wheel, wheels, "two", f"2.{number + 1}", requires=("one",))
            packages = ["--no-index", f"--find-links {wheels}", "two"]
            on_host, host = await node.obtain(packages, image=False)
            over, took = await node.obtain(packages, image=True)
            again, hit = await node.obtain(packages, image=True)
            bare = await node.bare()
            if (on_host, over, again) != (True, True, False):
                raise NodeError("what was to be built was there, or the other way round")
            if number >= 0:  # the first finds out about podman and the interpreters
                for name, value in (
                    ("bare", bare),
                    ("host", host),
                    ("image", took),
                    ("sum", host + bare),
                    ("hit", hit),
                ):
                    SERIES[name].add(value)
    finally:
        await node.close()


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run, on a storage that is gone in the end."""
    with temporary() as folder:
        small_image.make()
        world = PodmanWorld.make(folder / "world")
        try:
            asyncio.run(rounds_of(folder, world, arguments.rounds))
        finally:
            world.close()
        return Figures(SERIES, RATIOS, circumstances(folder))


def main() -> int:
    """The command."""
    return run(parser(__doc__, rounds=5), measure, "Environments over an image")


if __name__ == "__main__":
    sys.exit(main())
