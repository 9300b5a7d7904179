"""A store on a file system that is too small for everything: what fits, what waits, what is refused."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemons import Daemon
from helpers import wait_until
from package_world import Index, make_sdist, make_wheel
from raylet import Env, MakeRaylet, Raylet
from sources import FileServer, left_over

from ray_envd.agent.client import Client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]
MIB = 1024 * 1024
_DISK = 100  # MiB
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
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}m,mode=755", "ray-envd", small], check=True)
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


# what can never fit


def test_an_archive_larger_than_the_budget_is_refused_before_any_of_it_comes(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, web: FileServer
) -> None:
    """Its size is asked first; the error says both numbers."""
    daemon = daemons("--max-bytes", "30MiB")
    env = {"working_dir": web.add(archive(disk.folder, "large", 40))}
    error = make_raylet(daemon).refused(env)
    assert "the whole budget is 31.5 MB" in error
    assert "max_bytes" in error
    assert web.asked == []


def test_packages_larger_than_the_budget_are_refused_before_any_is_downloaded(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, interpreter: str
) -> None:
    """The index tells how large they are."""
    daemon, index = daemons("--max-bytes", "30MiB"), Index()
    index.tells_sizes = True
    for name in ("alpha", "beta"):
        index.add(wheel(disk.folder, name, "1.0", 6))
    env = {"pip": {"packages": ["alpha", "beta"], "pip_install_options": ["--index-url", index.url()]}}
    try:
        error = make_raylet(daemon, python=interpreter).refused(env)
    finally:
        index.close()
    assert "the whole budget is 31.5 MB" in error
    assert not [each for each in index.requests if each.endswith(".whl")]
    assert left_over(daemon.store) == []


def test_what_turns_out_larger_than_the_budget_is_ended_and_leaves_nothing(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, interpreter: str, web: FileServer
) -> None:
    """A download without a length, and a build that writes more than anybody could know."""
    daemon = daemons("--max-bytes", "30MiB")
    raylet = make_raylet(daemon, python=interpreter)
    web.tells_length = False
    error = raylet.refused({"working_dir": web.add(archive(disk.folder, "endless", 60))})
    assert "the whole budget is 31.5 MB" in error
    writes = (
        "import time\nwith open('ballast', 'wb') as file: file.write(bytes(40 * 2**20))\ntime.sleep(60)\n"
    )
    make_sdist(disk.folder / "wheels", "hungry", "1.0", prologue=writes)
    options = ["--no-index", "--find-links", str(disk.folder / "wheels")]
    error = raylet.refused({"pip": {"packages": ["hungry"], "pip_install_options": options}})
    assert "the whole budget is 31.5 MB" in error
    assert left_over(daemon.store) == []
    assert daemon.stats().reserved_bytes == 0


def test_a_low_watermark_above_the_high_one_is_refused_at_start(disk: Disk) -> None:
    """Also where only this disk makes it so: a size against a percentage."""
    words = ["--store", str(disk.small / "store"), "--socket", str(disk.folder / "s")]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "ray_envd",
            "serve",
            *words,
            "--high-watermark",
            "50%",
            "--low-watermark",
            "60MiB",
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode != 0
    assert "low_watermark is '60MiB' (--low-watermark)" in run.stderr
    assert "above high_watermark" in run.stderr
    assert not (disk.small / "store").exists()


# what fits once something has gone


def test_a_build_waits_until_something_may_be_collected(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet
) -> None:
    """What nobody uses is too young at first; then it goes, as much as is needed, and the build succeeds."""
    daemon = daemons("--max-bytes", "70MiB", "--high-watermark", "70MiB", "--low-watermark", "70MiB")
    raylet = make_raylet(daemon)
    kept = {"working_dir": archive(disk.folder, "kept", 20).as_uri()}
    raylet.prepared(kept)
    for name in ("one", "two"):
        prepared_and_given_back(raylet, {"working_dir": archive(disk.folder, name, 20).as_uri()})
    raylet.prepared({"working_dir": archive(disk.folder, "three", 25).as_uri()})
    assert waits_for_room(raylet)
    assert names(stored(daemon, "archive")) in ({"kept", "two", "three"}, {"kept", "one", "three"})


def test_where_all_is_in_use_it_fails_at_once_and_says_so(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet
) -> None:
    """Nothing is waited for that nobody will give back; later it succeeds without a new daemon."""
    raylet = make_raylet(daemons("--max-bytes", "70MiB"))
    used = {"working_dir": archive(disk.folder, "used", 45).as_uri()}
    wanted = {"working_dir": archive(disk.folder, "wanted", 30).as_uri()}
    raylet.prepared(used)
    started = time.monotonic()
    error = raylet.refused(wanted)
    assert time.monotonic() - started < 10
    assert "31.5 MB are needed" in error
    assert "in use 47.2 MB" in error
    raylet.delete(used)
    wait_until(lambda: raylet.create(wanted).ok, 20, "what was given back", every=0.5)


def test_builds_that_do_not_fit_together_come_one_after_the_other(
    disk: Disk,
    daemons: Callable[..., Daemon],
    make_raylet: MakeRaylet,
    web: FileServer,
    pool: ThreadPoolExecutor,
) -> None:
    """The second waits for what the first has reserved, and has it once the first has failed."""
    raylet = make_raylet(daemons("--max-bytes", "70MiB"))
    first = {"working_dir": web.add(archive(disk.folder, "first", 40))}
    second = {"working_dir": archive(disk.folder, "second", 45).as_uri()}
    web.halt = 5 * MIB
    web.gate.clear()
    failing: Future[str] = pool.submit(raylet.refused, first, timeout=6, job="02000000")
    wait_until(lambda: "/first.zip" in web.asked, 10, "the first to begin")
    waiting = pool.submit(raylet.prepared, second)
    wait_until(lambda: waits_for_room(raylet), 5, "the second to wait")
    assert "not ready" in failing.result(30) or "time" in failing.result(0)
    assert waiting.result(30).ok
    web.gate.set()


# what others do


def test_a_disk_that_others_fill_meanwhile_fails_a_build_cleanly_and_it_is_done_again(
    disk: Disk,
    daemons: Callable[..., Daemon],
    make_raylet: MakeRaylet,
    web: FileServer,
    pool: ThreadPoolExecutor,
) -> None:
    """In the midst of a download no room is left: nothing of it stays; it is done again once there is."""
    daemon = daemons("--max-bytes", "70MiB")
    raylet = make_raylet(daemon)
    env = {"working_dir": web.add(archive(disk.folder, "victim", 30))}
    web.halt = 5 * MIB
    web.gate.clear()
    coming = pool.submit(raylet.prepared, env)
    wait_until(lambda: "/victim.zip" in web.asked, 10, "the download")
    wait_until(lambda: any(disk.small.glob("store/users/*/staging/download-*")), 5, "its first bytes")
    others = disk.fill()
    web.gate.set()
    wait_until(lambda: waits_for_room(raylet), 15, "the wait for the disk")
    assert left_over(daemon.store) == []
    assert not coming.done()
    others.unlink()
    assert coming.result(30).ok
    assert web.asked == ["/victim.zip"] * 2


def test_a_disk_that_is_full_while_packages_are_installed_is_waited_for(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, interpreter: str
) -> None:
    """The words of uv for it are understood."""
    raylet = make_raylet(daemons("--max-bytes", "70MiB"), python=interpreter)
    prepared_and_given_back(raylet, _local(disk, "warm", "1.0", 0.1))
    env = _local(disk, "later", "1.0", 8)
    others = disk.fill(leave=3 * MIB)
    clearing = threading.Thread(
        target=lambda: (wait_until(lambda: waits_for_room(raylet), 30, "room"), others.unlink())
    )
    clearing.start()
    assert raylet.prepared(env).ok
    clearing.join()


def test_a_disk_that_others_fill_makes_the_store_give(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet
) -> None:
    """It is within its own limits; below min_free what nobody uses goes all the same, and the rest stays."""
    daemon = daemons("--max-bytes", "70MiB", "--min-free", "10MiB")
    raylet = make_raylet(daemon)
    raylet.prepared({"working_dir": archive(disk.folder, "used", 20).as_uri()})
    prepared_and_given_back(raylet, {"working_dir": archive(disk.folder, "unused", 20).as_uri()})
    disk.fill(leave=5 * MIB)
    wait_until(lambda: names(stored(daemon, "archive")) == {"used"}, 20, "the unused one's end")
    assert disk.free > 10 * MIB


# limits


def test_above_the_high_watermark_the_store_comes_down_to_the_low_one(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet
) -> None:
    """In percent of the disk; up to the high one nothing goes."""
    shares = ("--max-bytes", "80%", "--high-watermark", "50%", "--low-watermark", "30%")
    daemon = daemons(*shares, "--min-unused-age", "0s")
    raylet = make_raylet(daemon)
    for number in range(5):
        prepared_and_given_back(raylet, {"working_dir": archive(disk.folder, f"n{number}", 9).as_uri()})
    assert len(stored(daemon, "archive")) == 5
    prepared_and_given_back(raylet, {"working_dir": archive(disk.folder, "last", 9).as_uri()})
    wait_until(lambda: daemon.stats().object_bytes <= 30 * MIB, 20, "the low watermark")
    assert len(stored(daemon, "archive")) == 3


def test_a_kind_is_held_to_its_own_limit(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet
) -> None:
    """Archives come down to theirs; what is no archive is not asked."""
    daemon = daemons("--kind-max", "archive=25MiB,python=50%")
    raylet = make_raylet(daemon)
    raylet.prepared({"working_dir": archive(disk.folder, "used", 9).as_uri()})
    for number in range(4):
        prepared_and_given_back(raylet, {"working_dir": archive(disk.folder, f"n{number}", 9).as_uri()})
    prepared_and_given_back(raylet, {"pip": {"packages": []}})
    wait_until(lambda: len(stored(daemon, "archive")) == 2, 20, "the archives' limit")
    assert "used" in names(stored(daemon, "archive"))
    assert stored(daemon, "base")


def _local(disk: Disk, name: str, version: str, mib: float) -> Env:
    """An env of a package from a folder, of so many MiB."""
    wheel(disk.folder / "wheels", name, version, mib)
    options = ["--no-index", "--find-links", str(disk.folder / "wheels")]
    return {"pip": {"packages": [f"{name}=={version}"], "pip_install_options": options}}


def test_uvs_cache_is_in_the_budget_and_pruned_by_it(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, interpreter: str
) -> None:
    """What it alone holds goes first, then envs with what they have from it; an env in use is untouched."""
    sizes = ("--max-bytes", "70MiB", "--high-watermark", "35MiB", "--low-watermark", "20MiB")
    daemon = daemons(*sizes, "--min-unused-age", "0s")
    raylet = make_raylet(daemon, python=interpreter)
    used = raylet.prepared(_local(disk, "used", "1.0", 4))
    for number in range(6):
        prepared_and_given_back(raylet, _local(disk, f"unused{number}", "1.0", 4.6))
    assert len(stored(daemon, "python")) == 7
    prepared_and_given_back(raylet, _local(disk, "last", "1.0", 4.6))

    def accounted() -> int:
        stats = daemon.stats()
        return int(stats.object_bytes + stats.uv_cache_bytes)

    wait_until(
        lambda: accounted() + disk.free == pytest.approx(_DISK * MIB, rel=0.02), 15, "every byte's account"
    )
    wait_until(lambda: accounted() <= 20 * MIB, 20, "the low watermark")
    assert disk.free > 75 * MIB
    assert raylet.run(used, "import used; print(used.version)") == "1.0"
    assert len(stored(daemon, "python")) == 4


def test_a_hit_is_answered_while_a_collection_runs(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, pool: ThreadPoolExecutor
) -> None:
    """It deletes many files; envs in use are handed out all the while."""
    daemon = daemons()
    raylet = make_raylet(daemon)
    hot = {"working_dir": archive(disk.folder, "hot", 1).as_uri()}
    raylet.prepared(hot)
    for number in range(30):
        prepared_and_given_back(raylet, {"working_dir": archive(disk.folder, f"n{number}", 0.5).as_uri()})

    def collect() -> int:
        with Client(daemon.socket) as client:
            return len(client.gc(target_bytes=0).victims)

    collecting, hits = pool.submit(collect), 0
    while not collecting.done():
        raylet.prepared(hot)
        hits += 1
    assert collecting.result() == 30
    assert hits > 1
