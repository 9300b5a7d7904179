"""The pull of an image through ray-envd, next to ``podman pull`` alone.

``make bench`` runs it; by hand: ``.venv/bin/python benchmarks/image_pull.py --megabytes 500``.
What is measured from where to where stands in README.md. The exit code is 1 if a measurement was not what it
claims to be.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from figures import Figures, Series, Target
from oci import OciImage, write_layer
from podman_world import PodmanWorld
from processes import NodeError
from registries import Registry
from script import circumstances, console, parser, run, temporary

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.images import Image, Images
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.progress import Progress
from ray_envd.agent.sessions import Session
from ray_envd.agent.slots import Slots
from ray_envd.agent.spec import parse
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store

SERIES = {
    "podman": Series("podman pull alone"),
    "pull": Series("the same image through ray-envd, its object committed"),
    "present": Series("the image is there: a runtime env of another session"),
}
RATIOS = {"pull": ("a pull: ray-envd to podman pull alone", "pull", "podman")}
TARGETS = {"pull": Target(most=1.05, of="podman pull")}
MIB = 1024**2
_FILES = 16  # in each layer


class Node:
    """What of a daemon pulls images, on podman with a storage of its own."""

    def __init__(self, folder: Path, world: PodmanWorld, loop: asyncio.AbstractEventLoop) -> None:
        self.world, self.folder = world, folder
        self.store = Store.open(folder / "store")
        budget = Budget(None, lambda: shutil.disk_usage(folder).free, 0)
        self.workshop = Workshop(self.store, budget, Metrics(), Slots(2, 2))
        self.images = Images(self.workshop, Hosts(str(folder)), loop, max_age=float("inf"))

    async def obtain(self, name: str) -> tuple[Image, float]:
        """The image, and how many milliseconds it took."""
        told = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.world.variables}
        session = Session("bench", Owner.current(), sys.executable, told, self.folder)
        spec = parse(json.dumps({"image": name}))
        if spec.image is None:
            raise NodeError("the runtime env names no image")
        bench = Bench(self.workshop, session, spec, Progress())
        began = time.perf_counter()
        try:
            image = await self.images.obtain(spec.image, bench)
            return image, (time.perf_counter() - began) * 1000
        finally:
            bench.close()

    async def podman_alone(self, name: str) -> None:
        """One pull of podman's."""
        began = time.perf_counter()
        await asyncio.to_thread(self.world.podman, "pull", "--quiet", name)
        SERIES["podman"].add((time.perf_counter() - began) * 1000)
        await asyncio.to_thread(self.world.podman, "rmi", name)

    async def through_us(self, name: str) -> None:
        """One pull of ours, and a second look."""
        image, took = await self.obtain(name)
        if not image.is_new:
            raise NodeError("the image was there before")
        SERIES["pull"].add(took)
        again, took = await self.obtain(name)
        if again.is_new:
            raise NodeError("the image was pulled again")
        SERIES["present"].add(took)
        await self.drop(image)

    async def drop(self, image: Image) -> None:
        """Removes the image with its object."""
        freed = await self.workshop.thread(self.store.evict, image.entry.key, lambda _key: False)
        left: list[str] = await asyncio.to_thread(self.world.images)
        if not freed or left:
            raise NodeError("the image was not removed")

    async def close(self) -> None:
        """Ends podman's service, and the store."""
        await self.images.close()
        await asyncio.to_thread(self.workshop.close)
        await asyncio.to_thread(self.store.close)


def make_image(folder: Path, megabytes: int, layers: int) -> OciImage:
    """An image of random files: nothing in it can be compressed, every byte is pulled."""
    made = []
    for number in range(layers):
        folder.mkdir(exist_ok=True)
        source = folder / f"files-{number}"
        source.mkdir()
        for file in range(_FILES):
            content = random.Random(f"{number} {file}").randbytes(megabytes * MIB // layers // _FILES)
            (source / f"{file}").write_bytes(content)
        made.append(write_layer(folder, partial(_add, source)))
        shutil.rmtree(source)
    return OciImage(tuple(made), {"PATH": "/bin"})


def _add(source: Path, tar: tarfile.TarFile) -> None:
    tar.add(source, source.name)


async def rounds_of(node: Node, name: str, rounds: int) -> None:
    """Pulls in turn, each side first in every other round; before each the storage is empty."""
    sides = [node.podman_alone, node.through_us]
    for number in range(rounds):
        console.print(f"[dim]round {number + 1} of {rounds}[/]")
        for side in sides:
            await asyncio.to_thread(os.sync)
            await side(name)
        sides.reverse()


async def pull_all(folder: Path, world: PodmanWorld, name: str, rounds: int) -> None:
    """All of it."""
    node = await asyncio.to_thread(Node, folder / "node", world, asyncio.get_running_loop())
    try:
        await rounds_of(node, name, rounds)
    finally:
        await node.close()


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run, with a registry and a storage that are gone in the end."""
    with temporary() as folder, contextlib.ExitStack() as stack:
        registry = Registry(folder / "registry")
        stack.callback(registry.stop)
        world = PodmanWorld.make(folder / "world", [registry.address], small=False)
        stack.callback(world.close)
        told = circumstances(folder, megabytes=arguments.megabytes)
        (folder / "node").mkdir()
        made = make_image(folder / "layers", arguments.megabytes, arguments.layers)
        name = registry.start().push(made, "bench/pull")
        asyncio.run(pull_all(folder, world, name, arguments.rounds))
    return Figures(SERIES, RATIOS, told, TARGETS)


def main() -> int:
    """The command."""
    return run(parser(__doc__, megabytes=500, layers=4, rounds=5), measure, "Pulls of images")


if __name__ == "__main__":
    sys.exit(main())
