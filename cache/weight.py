"""What a tree weighs, by who else has its files. Call as the tree's owner; links are never followed.

Sizes are blocks on disk (``st_blocks`` counts 512 bytes whatever the file system's own block is, stat(2)).
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes on disk.

    Attributes:
        own: of folders and of files with one link.
        linked: of files with several links, each once; some of those may be in this tree, too.
    """

    own: int = 0
    linked: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.own + self.linked


def weigh(path: Path) -> Weight:
    """The weight of a tree, or of a file; nothing weighs nothing, and what vanishes meanwhile is left out."""
    own, linked, seen = 0, 0, set[tuple[int, int]]()
    pending = [os.fspath(path)]
    try:
        state = path.lstat()
    except FileNotFoundError:
        return Weight()
    if not stat.S_ISDIR(state.st_mode):
        size = state.st_blocks * _BLOCK
        return Weight(size) if state.st_nlink == 1 else Weight(linked=size)
    own = state.st_blocks * _BLOCK
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
                if stat.S_ISDIR(state.st_mode):
                    own += state.st_blocks * _BLOCK
                    pending.append(entry.path)
                elif state.st_nlink == 1:
                    own += state.st_blocks * _BLOCK
                elif (state.st_dev, state.st_ino) not in seen:
                    seen.add((state.st_dev, state.st_ino))
                    linked += state.st_blocks * _BLOCK
    return Weight(own, linked)
