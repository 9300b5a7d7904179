"""Whether a file system lets files share blocks until one of them is written (reflinks: btrfs, xfs)."""

import fcntl
import secrets
from pathlib import Path

_FICLONE = 0x40049409  # ioctl_ficlonerange(2)


def clones_files(folder: Path) -> bool:
    """Tries it with two small files in a folder that the caller may write; blocking.

    Raises:
        OSError: the folder cannot be written.
    """
    source, target = (folder / f".reflink-{secrets.token_hex(4)}" for _ in range(2))
    try:
        source.write_bytes(b"x")
        with source.open("rb") as old, target.open("wb") as new:
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            except OSError:
                return False
        return True
    finally:
        for path in (source, target):
            path.unlink(missing_ok=True)
