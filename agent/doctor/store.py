"""The store's folder, its file system, and the clock."""

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_envd.agent.doctor.finding import Finding, fail, ok, warn
from ray_envd.cache.reflink import clones_files
from ray_envd.cache.text import bytes_text

_SCARCE, _FEW = 0.10, 0.01  # shares of the disk, of the inodes
_CLOCK_SECONDS = 5.0
#: The project's first year: an earlier date is a clock that nobody has set.
_YEAR_2026 = 1_767_225_600


def nearest(path: Path) -> Path:
    """The path, or the closest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def folder(store: Path) -> Finding:
    """Whether this user's daemon can have its store there."""
    check = "store"
    if not store.exists():
        above = nearest(store)
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return ok(check, f"{store} is not there yet; `ray-envd serve` makes it")
        remedy = "choose another with --store or RAY_ENVD_STORE"
        return fail(check, f"{store} cannot be made: no writing in {above}", remedy)
    about = store.stat()
    fault = _fault(store, about)
    if fault is not None:
        return fail(check, *fault)
    return ok(check, f"{store}, mode {stat.S_IMODE(about.st_mode):04o}")


def _fault(store: Path, about: os.stat_result) -> tuple[str, str] | None:
    """What is wrong with the store's folder, and the remedy."""
    if not stat.S_ISDIR(about.st_mode):
        return f"{store} is not a folder", "move it away, or choose another with --store"
    if about.st_uid != os.geteuid():
        return (
            f"{store} belongs to uid {about.st_uid}, this is uid {os.geteuid()}",
            "run this as the daemon's user, or choose another store with --store",
        )
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write in {store}", f"chmod go-w {store}"
    if not os.access(store, os.W_OK | os.X_OK):
        return f"{store} cannot be written", "mount it read-write, or choose another with --store"
    return None


def noexec(store: Path) -> Finding:
    """Programs of environments are run from the store."""
    check = "mount options"
    flags = os.statvfs(nearest(store)).f_flag
    if flags & os.ST_RDONLY:
        return fail(check, "the file system is mounted read-only", "mount it read-write")
    if flags & os.ST_NOEXEC:
        return fail(
            check,
            "the file system is mounted noexec: programs of environments cannot run",
            "mount it without noexec, or choose another store with --store",
        )
    return ok(check, "programs can run from the store")


def space(store: Path, min_free: int) -> Finding:
    """Bytes that are free."""
    about = os.statvfs(nearest(store))
    free, total = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
    found = f"{bytes_text(free)} of {bytes_text(total)} are free"
    remedy = "free some, run `ray-envd gc --to SIZE`, or choose another disk with --store"
    if free < min_free:
        return fail(
            "disk space", f"{found}: less than min_free ({bytes_text(min_free)}), nothing is built", remedy
        )
    if free < total * _SCARCE:
        return warn("disk space", found, remedy)
    return ok("disk space", found)


def inodes(store: Path, scarce: float = _SCARCE) -> Finding:
    """An environment has thousands of files."""
    about = os.statvfs(nearest(store))
    if about.f_files == 0:
        return ok("inodes", "this file system has no limit")
    share = about.f_favail / about.f_files
    found = f"{about.f_favail:,} of {about.f_files:,} are free"
    remedy = "remove small files, or choose a file system with more inodes"
    if share < min(_FEW, scarce):
        return fail("inodes", found, remedy)
    return warn("inodes", found, remedy) if share < scarce else ok("inodes", found)


def hard_links(store: Path) -> Finding:
    """Files are linked from uv's cache into environments."""
    check = "hard links"
    if not store.is_dir():
        return ok(check, "looked at once the store is there")
    with _scratch(store) as scratch:
        source = scratch / "a"
        source.write_bytes(b"x")
        try:
            os.link(source, scratch / "b")
        except OSError as error:
            return warn(
                check,
                f"this file system makes none ({error.strerror}): files are copied",
                "put the store on ext4, xfs or btrfs: environments are made faster and take less room",
            )
        clones = clones_files(scratch)
    if clones:
        return ok(check, "not needed: reflinks work, and what is written into a file stays in that file")
    return ok(check, "they work; reflinks do not: what is written into a shared file is found afterwards")


def same_file_system(store: Path, uid: int | None = None) -> Finding:
    """The cache must be where the environments are, or every file is copied."""
    check = "uv's cache"
    home = store / "users" / str(os.geteuid() if uid is None else uid)
    cache, objects = home / "uv-cache", home / "objects-v1"
    try:
        apart = cache.stat().st_dev != objects.stat().st_dev
    except FileNotFoundError:
        return ok(check, "looked at once something was built")
    if apart:
        return warn(
            check,
            f"{cache} is on another file system than {objects}: files are copied",
            "remove the mount or the symbolic link: both belong into the store",
        )
    return ok(check, "on the store's file system")


def clock(store: Path, now: float | None = None) -> Finding:
    """Ages decide what is collected and looked up anew: the two clocks must agree."""
    check = "clock"
    now = time.time() if now is None else now
    if now < _YEAR_2026:
        date = time.strftime("%Y-%m-%d", time.gmtime(now))
        return fail(check, f"it says {date}", "set it, and keep it set with chrony or systemd-timesyncd")
    if not store.is_dir():
        return ok(check, "plausible; compared with the file system's once the store is there")
    with _scratch(store) as scratch:
        apart = scratch.stat().st_mtime - now
    if abs(apart) > _CLOCK_SECONDS:
        return warn(
            check,
            f"the file system's is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}",
            "synchronize this node and the file server",
        )
    return ok(check, "plausible, and the file system agrees")


@contextmanager
def _scratch(store: Path) -> Iterator[Path]:
    """A folder of our own for a moment. Only in a store that is this user's: see ``examine``."""
    path = store / f".doctor-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        for each in path.iterdir():
            each.unlink()
        with contextlib.suppress(OSError):
            path.rmdir()


def reason(error: OSError) -> str:
    """Why a check could not be made."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"this user may not look ({error.filename})"
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)
