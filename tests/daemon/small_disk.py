"""A store on a file system that is too small for everything, and what fills it. Only root can mount one."""

import contextlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemons import Daemon
from helpers import wait_until
from package_world import make_wheel
from raylet import Env, Raylet

from ray_envd.agent.client import Client

MIB = 1024 * 1024
DISK = 100  # MiB
_YOUNG = 2  # seconds for which what was used is not collected


@dataclass
class Disk:
    """A tmpfs with a store on it, and somebody else who may fill it."""

    folder: Path
    small: Path

    def daemon(self, *arguments: str) -> Daemon:
        """A daemon of the store, started; a budget of 80 MiB unless told otherwise."""
        daemon = Daemon(
            self.small / "store",
            self.folder / "d.sock",
            self.folder / "daemon.log",
            ("--min-unused-age", f"{_YOUNG}s", "--min-free", "2MiB", *arguments),
        )
        return daemon.start()

    @property
    def free(self) -> int:
        """Bytes."""
        stat = os.statvfs(self.small)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave: int = 0) -> Path:
        """Another writer takes all that is free but so many bytes."""
        path = self.small / "others"
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while self.free > leave:
                file.write(b"x" * min(MIB, self.free - leave))
        return path


@pytest.fixture
def disk() -> Iterator[Disk]:
    """An empty one."""
    folder = Path(tempfile.mkdtemp(prefix="re-", dir="/tmp"))
    folder.chmod(0o755)
    small = folder / "disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m,mode=755", "ray-envd", small], check=True)
    yield Disk(folder, small)
    wait_until(lambda: subprocess.run(["umount", small], check=False).returncode == 0, 10, "the end of users")
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


@pytest.fixture
def daemons(disk: Disk) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons on the disk."""
    started: list[Daemon] = []

    def start(*arguments: str) -> Daemon:
        started.append(disk.daemon(*arguments))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()
        sys.stderr.write(f"\n--- {daemon.log}\n{daemon.tail()}\n")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that wait."""
    with ThreadPoolExecutor(4) as threads:
        yield threads


def archive(folder: Path, name: str, mib: float) -> Path:
    """A package of so many MiB that do not compress."""
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{name}.bin", os.urandom(int(mib * MIB)))
    return path


def wheel(folder: Path, name: str, version: str, mib: float) -> Path:
    """A wheel of so many MiB that do not compress."""
    path = make_wheel(folder, name, version)
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(f"{name}/ballast.bin", os.urandom(int(mib * MIB)))
    return path


def stored(daemon: Daemon, kind: str) -> list[str]:
    """The summaries of the objects of a kind."""
    with Client(daemon.socket) as client:
        return sorted(each.summary for each in client.list().objects if each.kind == kind)


def names(summaries: list[str]) -> set[str]:
    """``a.zip`` of ``file:///x/a.zip``."""
    return {summary.rpartition("/")[2].removesuffix(".zip") for summary in summaries}


def waits_for_room(raylet: Raylet) -> bool:
    """Whether the set-up log says that somebody waits for room."""
    return "waiting for room" in raylet.setup_log()


def prepared_and_given_back(raylet: Raylet, env: Env) -> None:
    """An env that was used and is not any more."""
    raylet.prepared(env)
    assert raylet.delete(env)


def packaged(disk: Disk, name: str, version: str, mib: float) -> Env:
    """An env of a package from a folder, of so many MiB."""
    wheel(disk.folder / "wheels", name, version, mib)
    options = ["--no-index", "--find-links", str(disk.folder / "wheels")]
    return {"pip": {"packages": [f"{name}=={version}"], "pip_install_options": options}}
