"""What every benchmark does around its measurements: arguments, signals, folders, output, exit code."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figures import Figures, machine
from processes import NodeError
from rays import ROOT
from rich.console import Console

from ray_envd.agent.client import ClientError

#: Where progress goes; figures go to stdout.
console = Console(stderr=True, highlight=False)
#: The Ray that stock and ours are measured on.
RAY = "2.60.0"
_FAILURES = (NodeError, ClientError, OSError, subprocess.SubprocessError)


def parser(doc: str | None, **counts: int) -> argparse.ArgumentParser:
    """Of a script with this docstring: ``--json FILE``, and a number for each count, by its default."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON too")
    for name, default in counts.items():
        option = f"--{name.replace('_', '-')}"
        made.add_argument(option, type=int, default=default, metavar="N", help=f"default {default}")
    return made


def run(asked: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Figures], title: str) -> int:
    """Parses, measures and tells, with ``{name}`` in the title replaced by arguments; returns the exit code.

    That is 1 if ``measure`` raised that something failed or was not what it claims to be, and 130 if it was
    interrupted, for which SIGTERM and SIGHUP do as well as ^C. Whatever ``measure`` made it has to remove, in
    either case.
    """
    arguments = asked.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        figures = measure(arguments)
    except KeyboardInterrupt:
        console.print("interrupted; everything was ended and removed")
        return 130
    except _FAILURES as error:
        console.print(f"wrong: {error}", style="red", markup=False)
        return 1
    # Read by people also where it goes to a file or a pipe, of which nobody knows the width.
    page = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    figures.show(page, title.format(**vars(arguments)))
    if arguments.json:
        figures.write(arguments.json)
    return 0


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def temporary(prefix: str = "reb-", mode: int = 0o700) -> Iterator[Path]:
    """A folder with a short name, since those of Ray's sockets are long; gone at the end.

    Raises:
        NodeError: it could not be removed.
    """
    with _removed(Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))) as folder:
        folder.chmod(mode)
        yield folder


@contextlib.contextmanager
def installations() -> Iterator[Path]:
    """A folder for Ray installations on the file system of uv's cache, which links them; gone at the end.

    Raises:
        NodeError: it could not be removed.
    """
    with _removed(ROOT / ".work" / f"bench-{os.getpid()}") as folder:
        yield folder


@contextlib.contextmanager
def _removed(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        # Whoever is impatient must not leave half of it behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGINT, before)
    if folder.exists():
        raise NodeError(f"left behind: {folder}")


def circumstances(folder: Path, **more: Any) -> dict[str, Any]:
    """The machine, the versions, and more; the folder is one where the measurements' files lie."""
    told = {**machine(folder), "ray": RAY, "ray_envd": f"{version('ray-envd')} ({_commit()})"}
    for package in ("uv", "grpcio"):
        with contextlib.suppress(PackageNotFoundError):
            told[package] = version(package)
    return {**told, **more}


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "no git"
