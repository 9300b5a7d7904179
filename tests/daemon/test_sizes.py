"""Two hundred mixed objects: what ls, stats and gc say of their sizes is what du(1) finds."""

import os
import random
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from package_world import UV
from raylet import MakeRaylet
from sources import make_zip
from stored_files import markers, wait_until_sealed

from ray_envd.agent.client import Client, Object, Stats

pytestmark = pytest.mark.slow


ALICE = 41001  # a user, if root runs the tests
WHEELS, ENVS, ARCHIVES = 40, 60, 140
KINDS = {"python", "archive"}


def du(*paths: Path) -> int:
    """Bytes of folders together, as the program counts them: files with several links once."""
    done = subprocess.run(
        ["du", "-sc", "--block-size=1", *map(str, paths)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1].split()[0])


def close(one: int, other: int) -> bool:
    """Within one percent."""
    return abs(one - other) <= max(one, other) / 100


@pytest.fixture(scope="module")
def chance() -> random.Random:
    """The same store each time."""
    return random.Random(200)


@pytest.fixture(scope="module")
def wheels(place: Path, chance: random.Random) -> Path:
    """Packages of a kilobyte to two megabytes, for every user."""
    folder = place / "wheels"
    for number in range(WHEELS):
        size = int(10 ** chance.uniform(3, 6.4))
        make_wheel(folder, f"p{number}", "1.0", source=f"data = '{os.urandom(size // 2).hex()}'\n")
    return folder


@pytest.fixture(scope="module")
def client(node: Daemon) -> Iterator[Client]:
    """A client of the module's daemon."""
    with Client(node.socket) as made:
        yield made


@pytest.fixture(scope="module")
def filled(client: Client, node: Daemon, wheels: Path, place: Path, chance: random.Random) -> Client:
    """The daemon with all of them in its store."""
    options = ["--no-index", "--find-links", str(wheels)]
    specs = list[dict[str, Any]]()
    for number in range(ENVS):
        some = chance.sample(range(WHEELS), chance.randint(1, 6))
        # One package each that no other env has: no two sets are the same.
        names = sorted({f"p{number % WHEELS}", *(f"p{each}" for each in some)})
        specs.append({"uv": {"packages": names, "uv_pip_install_options": options}})
    for number in range(ARCHIVES):
        content = os.urandom(int(10 ** chance.uniform(3, 5.7)))
        package = make_zip(place / f"a{number}.zip", {"data": content})
        specs.append({"working_dir": package.as_uri()})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda spec: list(client.create(spec, python=sys.executable)), specs))
    objects = [each for each in client.list().objects if each.kind in KINDS]
    assert len(objects) > ENVS / 2 + ARCHIVES
    wait_until_sealed(node)
    return client


def folder_of(node: Daemon, each: Object) -> Path:
    """Where an object stands."""
    return node.store / f"users/{each.owner_uid}/objects-v1/{each.id}"


def nobody_elses(folder: Path) -> int:
    """Bytes of a folder without the files that have links outside of it."""
    found = [path.lstat() for path in (folder, *folder.rglob("*"))]
    links = Counter(each.st_ino for each in found)
    alone = {
        each.st_ino: each.st_blocks * 512
        for each in found
        if stat.S_ISDIR(each.st_mode) or each.st_nlink == links[each.st_ino]
    }
    return sum(alone.values())


def settled(client: Client, node: Daemon) -> Stats:
    """The figures once uv's cache has been measured and nothing goes on: seals add bytecode."""

    def agree() -> Stats | None:
        sealed = all(each["sealed"] for each in markers(node))
        stats = client.stats()
        return stats if sealed and close(stats.store_bytes, du(node.store)) else None

    return wait_until(agree, 100, "stats that agree with du")


def shared_once(objects: Sequence[Object], stats: Stats) -> int:
    """What ls's figures add up to with what several share counted once."""
    return sum(each.exclusive_bytes for each in objects) + stats.shared_bytes


def test_stats_are_what_du_says(filled: Client, node: Daemon) -> None:
    """Objects, uv's cache and all else make up the store's folder; ls adds up to the same."""
    stats = settled(filled, node)
    objects = filled.list().objects
    assert close(shared_once(objects, stats), stats.object_bytes)
    assert stats.apparent_bytes == sum(each.bytes for each in objects)
    paths = [folder_of(node, each) for each in objects]
    users = {path.parents[2] for path in paths}
    assert close(
        stats.object_bytes + stats.uv_cache_bytes, du(*paths, *(user / "uv-cache" for user in users))
    )
    assert stats.apparent_bytes > stats.object_bytes * 1.2, "nothing was shared: this shows little"


def test_the_apparent_size_is_what_du_says_of_the_object(filled: Client, node: Daemon) -> None:
    """Each of them by itself."""
    for each in filled.list().objects:
        assert close(each.bytes, du(folder_of(node, each))), each


def test_removing_frees_what_was_said(filled: Client, node: Daemon) -> None:
    """One by one, and half of the envs together: ls, the reply and the disk agree."""
    objects = [each for each in filled.list().objects if each.kind in KINDS]
    for each in objects[::20]:
        before = du(node.store / "users")
        freed = filled.remove(each.id).freed_bytes
        assert freed == each.exclusive_bytes
        assert close(freed, before - du(node.store / "users"))
    envs = [each for each in filled.list().objects if each.kind == "python"][::2]
    before, stored = du(node.store / "users"), filled.stats().object_bytes
    freed = sum(filled.remove(each.id).freed_bytes for each in envs)
    assert close(freed, before - du(node.store / "users"))
    assert close(freed, stored - filled.stats().object_bytes)
    # Bytecode that only envs among them had goes with the last of these.
    assert freed >= sum(each.exclusive_bytes for each in envs)
    settled(filled, node)


def test_collection_frees_what_it_says(filled: Client, node: Daemon) -> None:
    """Objects and what only they had from uv's cache; pinned ones stay, with theirs."""
    envs = [each for each in filled.list().objects if each.kind == "python"]
    kept = {filled.pin(each.id).id for each in envs[::2]}
    before = du(node.store / "users")
    done = filled.gc(target_bytes=0)
    assert {each.id for each in filled.list().objects} == kept
    assert close(done.freed_bytes, before - du(node.store / "users"))
    settled(filled, node)


def test_without_uvs_cache_the_envs_weigh_what_they_share(filled: Client, node: Daemon, wheels: Path) -> None:
    """Somebody has emptied it; the daemon finds out, and each removal frees what ls says then."""
    kept = [each for each in filled.list().objects if each.kind == "python"]
    cache = folder_of(node, kept[0]).parents[2] / "uv-cache"
    subprocess.run([UV, "cache", "clean", "--cache-dir", cache], check=True, capture_output=True)
    options = ["--no-index", "--find-links", str(wheels)]
    list(filled.create({"uv": {"packages": ["p0==1.0"], "uv_pip_install_options": options}}))
    stats = settled(filled, node)
    objects = filled.list().objects
    assert stats.shared_bytes > 0
    envs = {each.id: each for each in objects if each.kind == "python"}
    assert all(close(each.exclusive_bytes, nobody_elses(folder_of(node, each))) for each in envs.values())
    grown = [envs[each.id].exclusive_bytes > each.exclusive_bytes for each in kept]
    assert any(grown), "no env has a package of its own: this shows little"
    assert close(shared_once(objects, stats), stats.object_bytes)
    for each in kept:
        filled.unpin(each.id)
        [now] = [found for found in filled.list().objects if found.id == each.id]
        before = du(node.store / "users")
        freed = filled.remove(each.id).freed_bytes
        assert freed == now.exclusive_bytes
        assert close(freed, before - du(node.store / "users"))
    settled(filled, node)


@pytest.mark.usefixtures("other_users")
def test_other_users_objects_count_as_well(
    filled: Client, node: Daemon, make_raylet: MakeRaylet, wheels: Path
) -> None:
    """They have a uv cache of their own, and nothing in common with anybody else's."""
    raylet = make_raylet(uid=ALICE, python="/usr/bin/python3")
    options = ["--no-index", "--find-links", str(wheels)]
    for packages in (["p1", "p2"], ["p2", "p3"]):
        raylet.prepared({"uv": {"packages": packages, "uv_pip_install_options": options}})
    stats = settled(filled, node)
    objects = filled.list().objects
    hers = [each for each in objects if each.owner_uid == ALICE and each.kind == "python"]
    assert len(hers) == 2
    assert all(close(each.bytes, du(folder_of(node, each))) for each in hers)
    assert close(shared_once(objects, stats), stats.object_bytes)
