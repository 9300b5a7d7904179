"""A store on a small file system: the limits to which it comes down, and what goes."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemons import Daemon
from helpers import wait_until
from raylet import MakeRaylet
from small_disk import DISK, MIB, Disk, archive, names, packaged, prepared_and_given_back, stored

from ray_envd.agent.client import Client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]


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
    wait_until(lambda: disk.free > 10 * MIB, 20, "the room that it took")


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


def test_uvs_cache_is_in_the_budget_and_pruned_by_it(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, interpreter: str
) -> None:
    """What it alone holds goes first, then envs with what they have from it; an env in use is untouched."""
    sizes = ("--max-bytes", "70MiB", "--high-watermark", "35MiB", "--low-watermark", "20MiB")
    daemon = daemons(*sizes, "--min-unused-age", "0s")
    raylet = make_raylet(daemon, python=interpreter)
    used = raylet.prepared(packaged(disk, "used", "1.0", 4))
    for number in range(6):
        prepared_and_given_back(raylet, packaged(disk, f"unused{number}", "1.0", 4.6))
    assert len(stored(daemon, "python")) == 7
    prepared_and_given_back(raylet, packaged(disk, "last", "1.0", 4.6))

    def accounted() -> int:
        stats = daemon.stats()
        return int(stats.object_bytes + stats.uv_cache_bytes)

    wait_until(
        lambda: accounted() + disk.free == pytest.approx(DISK * MIB, rel=0.02), 15, "every byte's account"
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
