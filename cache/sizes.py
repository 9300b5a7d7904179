"""What trees weigh on disk. Call as the tree's owner; links are never followed.

Sizes are blocks on disk (``st_blocks`` counts 512 bytes whatever the file system's own block is, stat(2)).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 512


def exclusive_bytes(path: Path) -> int:
    """The bytes that removing this tree would free.

    A file that is linked somewhere outside of the tree (uv's cache, another environment) is not freed by it
    and counts nothing; one whose links are all inside counts once.
    """
    total, linked = 0, dict[tuple[int, int], int]()
    for state in _states(path):
        if state.st_nlink == 1 or _is_folder(state):
            total += state.st_blocks * _BLOCK
            continue
        inode = (state.st_dev, state.st_ino)
        linked[inode] = seen = linked.get(inode, 0) + 1
        if seen == state.st_nlink:
            total += state.st_blocks * _BLOCK
    return total


def tree_bytes(path: Path) -> int:
    """The bytes of everything in this tree, each file once however many links it has; 0 if there is none."""
    total, seen = 0, set[tuple[int, int]]()
    for state in _states(path):
        if state.st_nlink > 1 and not _is_folder(state):
            inode = (state.st_dev, state.st_ino)
            if inode in seen:
                continue
            seen.add(inode)
        total += state.st_blocks * _BLOCK
    return total


def _is_folder(state: os.stat_result) -> bool:
    return stat.S_ISDIR(state.st_mode)


def _states(path: Path) -> Iterator[os.stat_result]:
    """The state of a tree's root and of all in it; what vanishes meanwhile is left out."""
    try:
        root = path.lstat()
    except FileNotFoundError:
        return
    yield root
    pending = [str(path)] if _is_folder(root) else []
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                try:
                    state = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield state
                if _is_folder(state):
                    pending.append(entry.path)
