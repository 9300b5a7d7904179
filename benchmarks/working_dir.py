"""How long a working_dir takes from where it was uploaded to until a worker may start in it.

``make bench ONLY=working_dir`` runs it; by hand: ``.venv/bin/python benchmarks/working_dir.py``. What
is measured from where to where stands in README.md. A folder of many small files and one of a single large
file, each from the cluster's own store (``gcs://``) and from S3, on one node of ray-envd and one of stock
Ray, which are made for it and gone at the end with all their files. The exit code is 1 if a measurement was
not what it claims to be or something was left behind.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from agents import Agent
from figures import Figures, Series, Target
from own_disk import ext4
from processes import NodeError, wait_until
from rays import ROOT, RayNode
from script import circumstances, console, installations, parser, run, temporary
from sides import Sides
from uploads import Uploads, object_store

from ray_envd.agent.client import Client, ClientError, Object

CASES = {
    "small_gcs": "many small files from the GCS",
    "small_s3": "many small files from S3",
    "large_gcs": "one large file from the GCS",
    "large_s3": "one large file from S3",
}
SIDES = {
    "new": "ray-envd, as the raylet sees it",
    "stock": "stock Ray, as the raylet sees it",
    "again": "ray-envd, for another session (the archive is there)",
    "get": "its transfer alone",
    "unzip": "unzip of the archive alone",
    "cp": "cp of the unpacked folder alone",
}
RATIOS = {
    f"{case}{name}": (f"{what}: {to}", f"{case}_{above}", f"{case}_{below}")
    for case, what in CASES.items()
    for name, to, above, below in (
        ("", "ray-envd to stock", "new", "stock"),
        ("_again", "ray-envd, another session, to unzip alone", "again", "unzip"),
    )
}
_FILES = "the files have to be made: unzip alone takes half of stock's time, and ours keeps both cores busy"
_BYTES = "every byte is hashed, checked, and written twice, as by stock, to memory that has to be had first"
LIMITS = {
    "small_gcs": _FILES,
    "small_s3": f"{_FILES}; and the archive is fetched by a process of its own",
    "large_gcs": "a value of the GCS comes in one message: it copies that before it sends a byte, and gRPC's "
    f"library twice after the last, which together is most of the time on both sides; and {_BYTES}",
    "large_s3": f"{_BYTES}; with the server that takes both cores all the time",
}
TARGETS = {case: Target(most=0.5, of="stock", limit=LIMITS[case]) for case in CASES}
#: What reads s3:// in stock Ray, as its own error message asks for.
_STOCKS_S3 = "smart_open[s3]"
#: Nothing that nobody uses stays, so that what is asked for again is new.
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_REGION": "us-east-1",
    "RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB": "0",
}


@dataclass(frozen=True)
class Case:
    """A folder, its archive, and what both sides are asked for."""

    name: str
    folder: Path
    archive: Path
    files: int
    uris: dict[str, str]

    def env(self, side: str) -> dict[str, str]:
        """The runtime env for a side."""
        return {"working_dir": self.uris[side]}


class Bench:
    """Both sides at work, and what was measured on them."""

    def __init__(self, sides: Sides, s3: str) -> None:
        self.sides, self.s3, self.folder = sides, s3, sides.folder
        self.series = {
            f"{case}_{side}": Series(f"{CASES[case]}: {SIDES[side]}") for case in CASES for side in SIDES
        }
        self.cases: dict[str, Case] = {}
        self.kept = 0

    def measure(self, folders: dict[str, Path], rounds: int) -> None:
        """All cases, in turn."""
        uploads = Uploads(self.sides.ours), Uploads(self.sides.stock)
        with uploads[0] as ours, uploads[1] as stock, contextlib.ExitStack() as kept:
            # The large one first: the caches of many files, which stay, would take its memory.
            for name, number in itertools.product(("large", "small"), range(rounds + 1)):
                told = f"round {number} of {rounds}" if number else "the first, not counted"
                console.print(f"[dim]{name}: {told}[/]")
                # What was made of many files is neither asked for again nor removed before the end.
                keep = kept if name == "small" else None
                if keep is not None or not number:
                    (folders[name] / "round.py").write_text(f"number = {number}\n")
                    self._pack(name, folders[name], {"new": ours, "stock": stock})
                for case in (f"{name}_gcs", f"{name}_s3"):
                    for side, seconds in self._round(number, self.cases[case], ours, keep):
                        if number:
                            self.series[f"{case}_{side}"].add(seconds * 1000)

    def _pack(self, name: str, folder: Path, drivers: dict[str, Uploads]) -> None:
        """Uploads a folder as it is now."""
        uris = {side: driver.upload(folder) for side, driver in drivers.items()}
        # As the driver packs it; but with one folder around it all for S3, as Ray's documentation asks.
        stem = self.folder / "bucket" / f"{name}-{time.monotonic_ns()}"
        plain = pack(folder, Path(f"{stem}.zip"))
        wrapped = pack(folder, Path(f"{stem}-s3.zip"), top=f"{folder.name}/")
        uri = f"s3://bucket/{wrapped.name}"
        files = count(folder)
        self.cases[f"{name}_gcs"] = Case(f"{name}_gcs", folder, plain, files, uris)
        self.cases[f"{name}_s3"] = Case(f"{name}_s3", folder, wrapped, files, {"new": uri, "stock": uri})

    def _round(
        self, number: int, case: Case, driver: Uploads, keep: contextlib.ExitStack | None
    ) -> Iterator[tuple[str, float]]:
        sides = [self._ours(case, keep), self._stocks(case, keep)]
        for side in sides if number % 2 else reversed(sides):
            yield from side
        self.kept += keep is not None
        if case.name.endswith("s3"):
            url = f"{self.s3}/bucket/{case.archive.name}"
            yield "get", self._alone(keep, "curl", "-sSf", url, "-o")
        else:
            yield "get", driver.seconds(case.uris["new"])
        yield "unzip", self._alone(keep, "unzip", "-q", case.archive, "-d")
        yield "cp", self._alone(keep, "cp", "-r", case.folder)

    def _ours(self, case: Case, keep: contextlib.ExitStack | None) -> Iterator[tuple[str, float]]:
        wait_until(self._evicted, 30, "the removal of ray-envd's archive")
        if len(self._archives()) != self.kept:
            raise NodeError("an archive that is in use has gone")
        with self._created(self.sides.ours, case, "new", keep) as took:
            yield "new", took
            if len(self._archives()) != self.kept + 1:
                raise NodeError("the archive is not in the store")
            yield "again", self._again(case, keep)

    def _stocks(self, case: Case, keep: contextlib.ExitStack | None) -> Iterator[tuple[str, float]]:
        with self._created(self.sides.stock, case, "stock", keep) as took:
            yield "stock", took

    @contextlib.contextmanager
    def _created(
        self, node: RayNode, case: Case, side: str, keep: contextlib.ExitStack | None
    ) -> Iterator[float]:
        """The env, new, for the block or for good; with the seconds that it took."""
        agent = self.sides.attached() if node is self.sides.ours else Agent(node)
        place = node.session / "runtime_resources" / "working_dir_files"

        def trees() -> set[Path]:
            return {path for path in place.glob("[!.]*") if path.is_dir()}

        wait_until(lambda: len(trees()) == self.kept, 60, f"the removal of the folder before {case.name}")
        before = trees()
        os.sync()
        yield agent.create(case.env(side))
        (tree,) = trees() - before
        if count(tree) != case.files:
            raise NodeError(f"{tree} has {count(tree)} files of {case.files}")
        if keep is None:
            agent.delete(case.env(side))

    def _again(self, case: Case, keep: contextlib.ExitStack | None) -> float:
        os.sync()
        with contextlib.ExitStack() as now:
            client = (keep or now).enter_context(Client(self.sides.daemon.socket))
            created = (keep or now).enter_context(
                client.hold(case.env("new"), python=str(self.sides.ours.python))
            )
            if not created.cache_hit:
                raise NodeError("the archive was fetched again")
            return created.seconds

    def _alone(self, keep: contextlib.ExitStack | None, *command: str | Path) -> float:
        """A command whose last argument is what it makes."""
        made = self.folder / f"copy-{time.monotonic_ns()}"
        os.sync()
        began = time.perf_counter()
        subprocess.run([*command, made], check=True)
        took = time.perf_counter() - began
        if keep is None:
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        return took

    def _archives(self) -> list[Object]:
        with Client(self.sides.daemon.socket) as client:
            return [each for each in client.list().objects if each.kind == "archive"]

    def _evicted(self) -> bool:
        """Whether no archive is there that nobody uses; what was being sealed as it was let go has stayed."""
        left = [each for each in self._archives() if not each.references]
        with Client(self.sides.daemon.socket) as client:
            for each in left:
                with contextlib.suppress(ClientError):
                    client.remove(each.id)
        return not left


def make_small(folder: Path, files: int) -> Path:
    """Text of 1 to 8 KB a file, a hundred to a folder; compresses to half."""
    chance = random.Random(7)
    for number in range(files):
        place = folder / f"part_{number // 100:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"module_{number:05}.py").write_text(chance.randbytes(chance.randint(512, 4096)).hex())
    return folder


def make_large(folder: Path, megabytes: int) -> Path:
    """One file that cannot be compressed, as weights of a model."""
    folder.mkdir()
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    return folder


def pack(folder: Path, archive: Path, top: str = "") -> Path:
    """A zip; as zip(1) makes it, what does not get smaller is stored."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as made:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                method = zipfile.ZIP_STORED if path.suffix == ".bin" else zipfile.ZIP_DEFLATED
                made.write(path, f"{top}{path.relative_to(folder)}", method)
    return archive


def count(folder: Path) -> int:
    """Files in a tree."""
    return sum(len(files) for _, _, files in os.walk(folder))


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with temporary() as folder, installations() as installs, contextlib.ExitStack() as stack:
        short = folder
        if arguments.ext4:
            short = stack.enter_context(ext4(folder / "d", arguments.ext4))
        s3 = stack.enter_context(object_store(short))
        (short / "bucket").mkdir()
        sides = Sides(short, installs, {**_ENVIRONMENT, "AWS_ENDPOINT_URL": s3})
        uv = str(ROOT / ".venv" / "bin" / "uv")
        install = [uv, "pip", "install", "-q", "--python", str(sides.stock.python), _STOCKS_S3]
        subprocess.run(install, check=True)
        bench = Bench(sides, s3)
        told = circumstances(short, files=arguments.files, megabytes=arguments.megabytes)
        told["own_ext4_gib"] = arguments.ext4
        figures = Figures(bench.series, RATIOS, told, TARGETS)
        folders = {
            "small": make_small(short / "small", arguments.files),
            "large": make_large(short / "large", arguments.megabytes),
        }
        with sides.running():
            bench.measure(folders, arguments.rounds)
    return figures


def main() -> int:
    """The command."""
    asked = parser(__doc__, files=10_000, megabytes=500, rounds=3, ext4=0)
    return run(asked, measure, "A working_dir of {files} small files, and of one of {megabytes} MB")


if __name__ == "__main__":
    sys.exit(main())
