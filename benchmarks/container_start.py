"""How long a worker in a container takes to its first answer, its image being there.

``make bench`` runs it; by hand: ``.venv/bin/python benchmarks/container_start.py --json out.json``. What is
measured from where to where stands in README.md. Beside ray-envd: the same worker without a container, podman
alone, and, where this runs as root and so can make an ordinary user, stock Ray's ``image_uri``, which works
for such users only, and with a configuration of podman that is made for it here. The exit code is 1 if
something went wrong or was left behind.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
import small_image
from daemons import Daemon
from drivers import Driver
from figures import Figures, Series, Target
from podman_world import PodmanWorld
from processes import NodeError, end_marked
from rays import RayNode, install_ray
from registries import Registry
from script import RAY, circumstances, console, installations, parser, run, temporary
from users import User

from ray_envd.agent.podman.host import Hosts, PodmanHost
from ray_envd.cache.owner import Owner

IMAGE = f"localhost/{small_image.NAME}:latest"
SERIES = {
    "plain": Series("new env without a container: a worker's start"),
    "bare": Series("podman run of the image, python -I -S -c pass"),
    "new": Series("new env in a container: ray-envd"),
    "over": Series("  what that is above the two before, in the same round"),
    "second": Series("second worker of the same env: ray-envd"),
    "plain_many": Series("so many new envs at once without containers: until the last"),
    "many": Series("so many images at once: ray-envd, until the last"),
    "user": Series("an ordinary user's new env in a container: ray-envd"),
    "user_stock": Series("an ordinary user's new env in a container: stock image_uri"),
}
RATIOS = {
    "new_to_plain": ("a worker in a container to one without", "new", "plain"),
    "second_to_new": ("the second worker of an env to the first", "second", "new"),
    "many_to_plain": ("so many at once: in containers to without", "many", "plain_many"),
    "stock_to_user": ("an ordinary user's: stock to ray-envd", "user_stock", "user"),
}
TARGETS = {
    "over": Target(most=150),
    "second_to_new": Target(
        most=1.0,
        of="the first worker",
        limit="Both do the same but for a few milliseconds, and workers' starts differ by more than that.",
    ),
}
#: Without it stock's podman runs do not work on machines such as ours; see doctor for what is why.
_FOR_STOCK = """\
[containers]
netns = "host"
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
[engine]
tmp_dir = "{folder}/tmp"
events_logger = "file"
runtime = "runc"
"""


class Bench:
    """Worlds, nodes and what was measured on them."""

    def __init__(self, folder: Path, installs: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self.installs, self.stack = folder, installs, stack
        self.registry = Registry(folder / "registry").start()
        stack.callback(self.registry.stop)
        self.world = PodmanWorld.make(folder / "p", [self.registry.address])
        stack.callback(self.world.close)
        self.daemon = Daemon.at(folder).start()
        stack.callback(self.daemon.stop)
        self.python = install_ray(RAY, installs / "e")
        attach = [sys.executable, "-m", "ray_envd", "attach", "--supervised", "--python"]
        subprocess.run([*attach, self.python], check=True, stdout=subprocess.DEVNULL)
        self.number = 0

    def add(self, name: str, seconds: float) -> float:
        """One measurement."""
        SERIES[name].add(seconds * 1000)
        return seconds

    def driver(self, node: RayNode) -> Driver:
        """On a node that is started for it."""
        self.stack.callback(node.stop)
        node.start()
        return Driver(node)

    def envs(self, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """New runtime envs of the same fields."""
        self.number += count
        numbers = range(self.number - count, self.number)
        return [{**fields, "env_vars": {"NUMBER": str(number)}} for number in numbers]

    def one_by_one(self, driver: Driver, rounds: int) -> None:
        """A plain worker, podman alone, a worker in a container, and another one of the same env, in turn."""
        host = asyncio.run(self._host())
        driver.took(*self.envs(image=IMAGE))
        for number in range(rounds):
            console.print(f"[dim]one by one: round {number + 1} of {rounds}[/]")
            plain = self.add("plain", driver.took(*self.envs()))
            bare = self.add("bare", self._bare(host))
            (env,) = self.envs(image=IMAGE)
            new = self.add("new", driver.took(env))
            self.add("over", new - plain - bare)
            self.add("second", driver.took(env))

    async def _host(self) -> PodmanHost:
        return await Hosts().of(Owner.current(), {**os.environ, **self.world.variables}, IMAGE)

    def _bare(self, host: PodmanHost) -> float:
        options = ["run", "--rm", *host.run_options, *host.worker_options, "--log-driver=none"]
        began = time.perf_counter()
        subprocess.run(
            [*host.command, *options, f"--entrypoint={small_image.PYTHON}", IMAGE, "-I", "-S", "-c", "pass"],
            env=dict(host.environment),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    def at_once(self, driver: Driver, rounds: int, count: int) -> None:
        """As many applications as a node may have, each with an image of its own, and without."""
        base = small_image.make()
        names = []
        for number in range(count):
            content = {"/app": str(number).encode()}
            names.append(self.registry.push(base.derive(self.folder / "layers", content), f"app{number}"))
        console.print(f"[dim]pulling {count} images[/]")
        driver.took(*(env for name in names for env in self.envs(image=name)))
        for number in range(rounds):
            console.print(f"[dim]{count} at once: round {number + 1} of {rounds}[/]")
            self.add("plain_many", driver.took(*self.envs(count)))
            self.add("many", driver.took(*(env for name in names for env in self.envs(image=name))))

    def against_stock(self, rounds: int) -> None:
        """The same for an ordinary user, for whom stock's image_uri works."""
        self.stack.enter_context(_message_queues())
        user = User.make(self.folder)
        world = PodmanWorld.make(user.home / "p", user=user)
        self.stack.callback(world.close)
        settings = user.home / "stock.conf"
        settings.write_text(_FOR_STOCK.format(folder=world.folder, files=4096))
        variables = {name: value for name, value in world.variables.items() if name != "PATH"}
        ours = RayNode(
            self.python,
            user.home / "e",
            {**variables, "RAY_ENVD_SOCKET": str(self.daemon.socket)},
            identity=world.identity,
        )
        stock = RayNode(
            install_ray(RAY, self.installs / "s"),
            user.home / "s",
            {**variables, "CONTAINERS_CONF": str(settings)},
            identity=world.identity,
        )
        drivers = {"user": self.driver(ours), "user_stock": self.driver(stock)}
        for driver, field in zip(drivers.values(), ("image", "image_uri"), strict=True):
            driver.took(*self.envs(1, **{field: IMAGE}))
        for number in range(rounds):
            console.print(f"[dim]an ordinary user: round {number + 1} of {rounds}[/]")
            self.add("user", drivers["user"].took(*self.envs(image=IMAGE)))
            self.add("user_stock", drivers["user_stock"].took(*self.envs(image_uri=IMAGE)))


@contextlib.contextmanager
def _message_queues() -> Iterator[None]:
    """The folder without which podman does not share the host's IPC; stock knows no other way."""
    folder = Path("/dev/mqueue")
    if folder.exists():
        yield
        return
    folder.mkdir()
    try:
        yield
    finally:
        folder.rmdir()


def measure(arguments: argparse.Namespace) -> Figures:
    """Everything, on nodes that are gone in the end."""
    with contextlib.ExitStack() as stack:
        # Every user can enter it.
        folder = stack.enter_context(temporary("rb-", 0o755))
        installs = stack.enter_context(installations())
        told = circumstances(folder, **{"at once": arguments.many})
        bench = Bench(folder, installs, stack)
        variables = {**bench.world.variables, "RAY_ENVD_SOCKET": str(bench.daemon.socket)}
        node = RayNode(bench.python, folder / "r", variables)
        driver = bench.driver(node)
        bench.one_by_one(driver, arguments.rounds)
        bench.at_once(driver, arguments.many_rounds, arguments.many)
        node.stop()
        end_marked(node.mark)
        if os.geteuid() == 0 and arguments.stock_rounds:
            bench.against_stock(arguments.stock_rounds)
        if left := bench.world.containers():
            raise NodeError(f"containers were left behind: {', '.join(left)}")
    return Figures(SERIES, RATIOS, told, TARGETS)


def main() -> int:
    """The command."""
    asked = parser(__doc__, rounds=10, many=8, many_rounds=3, stock_rounds=5)
    return run(asked, measure, f"A worker in a container on Ray {RAY}, its image being there")


if __name__ == "__main__":
    sys.exit(main())
