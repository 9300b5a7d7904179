"""A store on a file system that is too small for everything: what fits, what waits, what is refused."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from daemons import Daemon
from helpers import wait_until
from package_world import Index, make_sdist
from raylet import MakeRaylet
from small_disk import (
    MIB,
    Disk,
    archive,
    names,
    packaged,
    prepared_and_given_back,
    stored,
    waits_for_room,
    wheel,
)
from sources import FileServer, left_over

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]


# what can never fit


def test_an_archive_larger_than_the_budget_is_refused_before_any_of_it_comes(
    disk: Disk, daemons: Callable[..., Daemon], make_raylet: MakeRaylet, web: FileServer
) -> None:
    """The server says how large it is and sends no more than a byte; the error says both numbers."""
    daemon = daemons("--max-bytes", "30MiB")
    env = {"working_dir": web.add(archive(disk.folder, "large", 40))}
    web.halt = 1
    web.gate.clear()
    try:
        error = make_raylet(daemon).refused(env)
    finally:
        web.gate.set()
    assert "the whole budget is 31.5 MB" in error
    assert "max_bytes" in error
    assert left_over(daemon.store) == []


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
    prepared_and_given_back(raylet, packaged(disk, "warm", "1.0", 0.1))
    env = packaged(disk, "later", "1.0", 8)
    others = disk.fill(leave=3 * MIB)
    clearing = threading.Thread(
        target=lambda: (wait_until(lambda: waits_for_room(raylet), 30, "room"), others.unlink())
    )
    clearing.start()
    assert raylet.prepared(env).ok
    clearing.join()
