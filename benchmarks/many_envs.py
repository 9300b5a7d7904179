"""Fifty envs that share most of their packages: how long they take one after the other, and on disk.

``make bench ONLY=many_envs`` runs it; by hand: ``.venv/bin/python benchmarks/many_envs.py --envs 20``. What
is measured from where to where stands in README.md. The exit code is 1 if a measurement was not what it
claims to be or something was left behind.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from daemons import Daemon
from figures import Figures, Series, Target
from processes import NodeError
from rays import install_ray
from script import RAY, circumstances, console, installations, parser, run
from stores import PACKAGES, Envs, disk_bytes, fetch, folder_bytes
from wheels import small_wheel

from ray_envd.agent.client import Client

_MIB = 2.0**20
SERIES = {
    "one": Series("disk: one of them, complete, with its part of uv's cache", "MiB"),
    "differs": Series("disk: what differs between them, once each", "MiB"),
    "all": Series("disk: all of them", "MiB"),
    "budget": Series("disk: one of them, and what differs", "MiB"),
    "copies": Series("disk: as many copies, as stock makes them", "MiB"),
    "folders": Series("disk: their folders, a block each", "MiB"),
    "build": Series("an env: ray-envd, the daemon's time"),
    "seal": Series("an env is completed in the background: compiled or linked, and each file hashed"),
}
RATIOS = {
    "disk_to_one": ("disk: all of them to one of them and what differs", "all", "budget"),
    "disk_to_copies": ("disk: all of them to copies", "all", "copies"),
    "folders_to_one": ("disk: all of their folders to one of them and what differs", "folders", "budget"),
}
TARGETS = {
    "disk_to_one": Target(
        most=1.2,
        of="one env and what differs",
        limit="files are linked, folders cannot be: each takes a block in every env, which for this set is"
        " the figure of the folders",
    )
}


class Bench:
    """A daemon whose store knows the wheels."""

    def __init__(self, folder: Path, packages: list[str], count: int) -> None:
        self.folder, self.packages, self.count = folder, packages, count
        self.python = install_ray(RAY, folder / "ray")
        (folder / "e").mkdir()
        self.envs = Envs(Daemon.at(folder / "e"), self.python)
        self.links = folder / "wheels"

    def prepare(self) -> None:
        """All wheels are on this machine."""
        console.print("[dim]fetching what is not there yet[/]")
        fetch(self.packages, self.python, self.folder / "scratch")
        self.envs.give_wheels()
        for number in range(self.count):
            small_wheel(self.links, f"own{number}")

    def env(self, number: int) -> dict[str, Any]:
        """The common packages, and one that no other env has."""
        options = ["--find-links", str(self.links)]
        packages = [*self.packages, f"own{number}==1.0"]
        return {"pip": {"packages": packages, "pip_check": False, "pip_install_options": options}}

    def fill(self) -> list[Path]:
        """Builds all of them, one after the other, and completes each; returns where they stand."""
        folders = []
        with Client(self.envs.daemon.socket) as client:
            for number in range(self.count):
                console.print(f"[dim]env {number + 1} of {self.count}[/]")
                created = self.envs.create(self.env(number), hit=False)
                SERIES["build"].add(created.seconds * 1000)
                before = time.perf_counter()
                (done,) = client.verify([each for each in created.objects if each.startswith("python/")])
                SERIES["seal"].add((time.perf_counter() - before) * 1000)
                if done.damage or done.error:
                    raise NodeError(f"{done.object.id}: {done.damage or done.error}")
                folders.append(self.envs.folder(created))
        return folders

    def weigh(self, folders: list[Path]) -> None:
        """What they take, each file once, with the daemon's books."""
        layout = self.envs.layout
        books = disk_bytes(layout.manifests, layout.markers)
        one = disk_bytes(folders[0]) + books // len(folders)
        differs = sum(own_bytes(folder, f"own{number}") for number, folder in enumerate(folders))
        SERIES["one"].add(one / _MIB)
        SERIES["differs"].add(differs / _MIB)
        SERIES["budget"].add((one + differs) / _MIB)
        SERIES["all"].add((disk_bytes(*folders) + books) / _MIB)
        SERIES["copies"].add(sum(map(disk_bytes, folders)) / _MIB)
        SERIES["folders"].add(sum(map(folder_bytes, folders)) / _MIB)


def own_bytes(folder: Path, name: str) -> int:
    """The blocks of a package's files in an environment, its bytecode included."""
    found = [
        path for path in folder.rglob(f"{name}*") if path.name.partition(".")[0].partition("-")[0] == name
    ]
    return sum(disk_bytes(path) for path in found)


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with installations() as folder:
        folder.mkdir(parents=True)
        bench = Bench(folder, arguments.packages.split(), arguments.envs)
        told = circumstances(folder, packages=arguments.packages, envs=arguments.envs)
        bench.prepare()
        bench.envs.daemon.start()
        try:
            bench.weigh(bench.fill())
        finally:
            bench.envs.daemon.stop()
    return Figures(SERIES, RATIOS, told, TARGETS)


def main() -> int:
    """The command."""
    asked = parser(__doc__, envs=50)
    asked.add_argument("--packages", default=PACKAGES, help="what they share, in one argument")
    return run(asked, measure, "{envs} envs that share {packages}")


if __name__ == "__main__":
    sys.exit(main())
