"""Taking write permission from a finished tree, so that who uses it cannot change it by mistake.

It is a guard against mistakes, not malice: a tree belongs to the user whose workers run in it, so they
may give themselves the permission back, and root needs none. Whether a tree is as it was, its manifest says.
The permissions of a file are those of all its links: where uv links files from its cache, the cache's are
read-only as well, which uv does not mind.
"""

import os
import stat
from pathlib import Path

_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def protect(root: Path) -> int:
    """Makes everything below a folder read-only; returns how many files and folders were not yet.

    The folder itself stays writable, or it could not be renamed into the trash. Call as the tree's owner.
    Called again, it does the rest. What somebody else deletes meanwhile is no error.

    Raises:
        OSError: something could not be changed; what came before it was.
    """
    changed, pending = 0, [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except FileNotFoundError:
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            if not entry.is_symlink():
                changed += _take_write(entry)
    return changed


def _take_write(entry: "os.DirEntry[str]") -> bool:
    try:
        mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
        if not mode & _WRITE:
            return False
        os.chmod(entry.path, mode & ~_WRITE)  # noqa: PTH101 - runs for every file of an environment
    except FileNotFoundError:
        return False
    return True
