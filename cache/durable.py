"""Writing files that a reader sees whole or not at all, also after a loss of power.

Call as the owner of the files.
"""

import os
import stat
from pathlib import Path

from ray_envd.cache.errors import CorruptError

_NEW = ".new"


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a file (0600) aside and renames it into place.

    With ``durable`` the order of containerd's content store is kept: content, fsync, rename, fsync of the
    folder; once this returns, the file survives a loss of power. Without, it survives the death of the
    daemon only, which costs no waiting for the disk.
    """
    aside = path.with_name(f".{path.name}{_NEW}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(descriptor)
    aside.replace(path)
    if durable:
        sync_folder(path.parent)


def is_leftover(name: str) -> bool:
    """Whether a file of this name was being written when a daemon died."""
    return name.startswith(".") and name.endswith(_NEW)


def make_folders(path: Path, root: Path) -> None:
    """Makes a folder (0700) and those above it up to ``root``, durably."""
    if path == root or path.is_dir():
        return
    make_folders(path.parent, root)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes creations, renames and removals in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(path: Path) -> None:
    """Sees to it that an object is a folder, and that a single file in it is on disk. Call as its owner.

    Raises:
        CorruptError: it is no folder.
    """
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone") from error
    if not is_folder:
        raise CorruptError(f"{path} is no folder any more")
    inside = list(path.iterdir())
    if len(inside) == 1 and stat.S_ISREG(inside[0].lstat().st_mode):
        sync_file(inside[0])
        sync_folder(path)


def sync_file(path: Path) -> None:
    """Makes a regular file's content durable; anything else is left alone.

    Safe in a folder that somebody else writes: never follows a link, never waits for a pipe's other end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
