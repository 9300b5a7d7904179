"""Stamps: what a few files of an object looked like, to tell in microseconds whether they still do.

A stamp is no digest: it finds what was removed, replaced or rewritten, not what was changed by somebody who
sets the clock of a file back. Inode numbers are not in it: those of a container's interpreter change with
every start of the container, and those of a store with its restoration from a backup.
"""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

Stamps = Mapping[str, list[int]]


def stamp(path: Path | str) -> list[int]:
    """What a path leads to; links are followed, since an interpreter is one. Blocking.

    Raises:
        OSError: it leads nowhere.
    """
    state = Path(path).stat()
    # A folder's size says nothing and differs between file systems.
    size = 0 if stat.S_ISDIR(state.st_mode) else state.st_size
    return [stat.S_IFMT(state.st_mode), size, state.st_mtime_ns]


def take(
    root: Path, paths: Iterable[str], *, present: Iterable[str] = (), before: Stamps | None = None
) -> dict[str, list[int]]:
    """The stamps of these paths, relative to the root or absolute.

    Args:
        root: the object.
        paths: what must be as it is now.
        present: what must be there, whatever becomes of it: its stamp says only whether it is a folder.
        before: former stamps; a path that was only to be present then is so again.

    Raises:
        OSError: one leads nowhere.
    """
    lengths = {path: len(old) for path, old in (before or {}).items()}
    taken = {path: stamp(root / path)[: lengths.get(path)] for path in paths}
    return taken | {path: stamp(root / path)[:1] for path in present}


def difference(root: Path, stamps: Stamps) -> str | None:
    """The first of the paths that is not as it was, in words; None if all are."""
    for path, before in stamps.items():
        try:
            now = stamp(root / path)
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        if now[: len(before)] != before:
            return f"{path} has changed"
    return None
