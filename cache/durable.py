"""Writing files that a reader sees whole or not at all, also after a loss of power.

Call as the owner of the files.
"""

import os
from pathlib import Path

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
