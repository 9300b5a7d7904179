"""How long a large env takes whose wheels are known, what one more package costs, and what both take on disk.

``make bench ONLY=large_env`` runs it; by hand: ``.venv/bin/python benchmarks/large_env.py --rounds 20``. What
is measured from where to where stands in README.md. Wheels are fetched once, into uv's cache in
``.work/bench-wheels``, and stay there. The exit code is 1 if a measurement was not what it claims to be or
something was left behind.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from daemons import Daemon
from figures import Figures, Series, Target
from rays import install_ray
from script import RAY, circumstances, console, installations, parser, run
from stores import PACKAGES, Envs, clone_wheels, disk_bytes, fetch, folder_bytes
from uv_alone import UvAlone

from ray_envd.cache.sizes import weigh

MORE = "cowsay==6.1"
_MIB = 2.0**20
SERIES = {
    "large": Series("large env: ray-envd, the daemon's time"),
    "uv": Series("large env: uv alone, offline (three runs)"),
    "uv_resolve": Series("  uv pip install --dry-run"),
    "uv_venv": Series("  uv venv"),
    "uv_install": Series("  uv pip install"),
    "uv_prefix": Series("  uv pip install --prefix, where the interpreter is known"),
    "uv_used": Series("large env: the two runs of uv that ray-envd makes, alone"),
    "variant": Series("one more package: the env without it is there"),
    "alone_warm": Series("one more package: no env is there, wheels known"),
    "alone": Series("one more package: nothing is there, wheels are fetched"),
    "copy": Series("disk: a copy of the second env", "MiB"),
    "second_disk": Series("disk: what the second env adds, its bytecode and books included", "MiB"),
    "folders": Series("  of that its folders, a block each", "MiB"),
    "first_disk": Series("disk: what the first env adds to uv's cache", "MiB"),
    "seal_first": Series("sealing the first env, in the background"),
    "seal_second": Series("sealing the second env"),
}
RATIOS = {
    "large_to_uv": ("a large env: ray-envd's daemon time to uv alone", "large", "uv"),
    "large_to_used": ("a large env: ray-envd's daemon time to its two runs of uv alone", "large", "uv_used"),
    "variant_to_alone": (
        "one more package: beside the env without it, to alone on a store that knows nothing",
        "variant",
        "alone",
    ),
    "variant_to_warm": (
        "one more package: beside the env without it, to alone where all wheels are known",
        "variant",
        "alone_warm",
    ),
    "disk_to_copy": ("disk: what the second env adds to the store, to a copy of it", "second_disk", "copy"),
}
TARGETS = {
    "large_to_uv": Target(most=1.3, of="uv alone"),
    "variant_to_alone": Target(most=0.2, of="building it alone"),
    "variant_to_warm": Target(
        most=0.2,
        of="building it alone, wheels known",
        limit="both link every file once into a tree of its own; that is what either takes, and uv's linking"
        " is the kernel's (link(2) on a journal)",
    ),
    "disk_to_copy": Target(most=0.02, of="a copy"),
}


class Bench:
    """A daemon whose store knows the wheels, uv alone with the same ones, and what was measured."""

    def __init__(self, folder: Path, packages: list[str]) -> None:
        self.series = SERIES
        self.folder, self.packages = folder, packages
        self.python = install_ray(RAY, folder / "ray")
        self.env = {"pip": {"packages": packages, "pip_check": False}}
        self.more = {"pip": {"packages": [*packages, MORE], "pip_check": False}}
        self.envs = self._envs("e")
        self.uv = UvAlone(folder / "u", self.python)

    def _envs(self, name: str) -> Envs:
        (self.folder / name).mkdir()
        return Envs(Daemon.at(self.folder / name), self.python)

    def add(self, name: str, seconds: float) -> None:
        """One measurement."""
        self.series[name].add(seconds * 1000)

    def prepare(self) -> None:
        """Both sides know all wheels."""
        console.print("[dim]fetching what is not there yet[/]")
        fetch([*self.packages, MORE], self.python, self.folder / "scratch")
        self.envs.give_wheels()
        clone_wheels(self.folder / "u" / "cache")
        self.uv.warm(self.env["pip"])
        os.sync()

    def disk(self) -> None:
        """What two envs take that differ by one package, when both are complete."""
        console.print("[dim]two envs, with their bytecode[/]")
        store, sizes, folder = self.envs.daemon.store, [], self.folder
        self.envs.create({"pip": {"packages": [MORE], "pip_check": False}}, hit=False)
        self.envs.evict()
        for env, seal in ((self.env, "seal_first"), (self.more, "seal_second")):
            before = disk_bytes(store)
            folder = self.envs.folder(self.envs.create(env, hit=False))
            self.add(seal, self.envs.next_seal())
            sizes.append((disk_bytes(store) - before) / _MIB)
        self.series["first_disk"].add(sizes[0])
        self.series["second_disk"].add(sizes[1])
        self.series["copy"].add(weigh(folder).total / _MIB)
        self.series["folders"].add(folder_bytes(folder) / _MIB)
        self.envs.evict()

    def round(self, number: int) -> None:
        """Each side once."""
        for name, seconds in self.uv.round(number).items():
            self.add(name, seconds)
        self.add("large", self.envs.create(self.env, hit=False).seconds)
        self.add("variant", self.envs.create(self.more, hit=False).seconds)
        self.envs.evict()
        self.add("alone_warm", self.envs.create(self.more, hit=False).seconds)
        self.envs.evict()

    def alone(self, number: int) -> None:
        """The same on a store that was made for it."""
        console.print("[dim]on an empty store[/]")
        envs = self._envs(f"c{number}")
        envs.daemon.start()
        try:
            self.add("alone", envs.create(self.more, hit=False).seconds)
        finally:
            envs.daemon.stop()
            shutil.rmtree(self.folder / f"c{number}")
            os.sync()  # what is written late is not the next round's to wait for


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with installations() as folder:
        folder.mkdir(parents=True)
        bench = Bench(folder, arguments.packages.split())
        told = circumstances(folder, packages=arguments.packages)
        bench.prepare()
        bench.envs.daemon.start()
        try:
            bench.disk()
            for number in range(arguments.rounds):
                console.print(f"[dim]round {number + 1} of {arguments.rounds}[/]")
                bench.round(number)
                done, after = (n * arguments.alone // arguments.rounds for n in (number, number + 1))
                if done != after:
                    bench.alone(number)
        finally:
            bench.envs.daemon.stop()
    return Figures(bench.series, RATIOS, told, TARGETS)


def main() -> int:
    """The command."""
    asked = parser(__doc__, rounds=10, alone=2)
    asked.add_argument("--packages", default=PACKAGES, help="what the env holds, in one argument")
    return run(asked, measure, "A large env: {packages}")


if __name__ == "__main__":
    sys.exit(main())
