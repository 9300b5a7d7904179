"""What trees weigh on disk. Call as the tree's owner; links are never followed.

Sizes are blocks on disk (``st_blocks`` counts 512 bytes whatever the file system's own block is, stat(2)).

Files of an environment are hard links to files of uv's cache, so what removing it frees depends on who else
has them. They come and go together, a wheel's files at a time: such a set is a :class:`Unit`, known by its
inodes.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 512  # bytes of one st_blocks


@dataclass(frozen=True, slots=True)
class Unit:
    """Files that are linked from elsewhere and come and go together; or a layer of an image.

    Attributes:
        id: of these very inodes; who has the same files has the same id.
        bytes: on disk, once.
        sample: one of the files, relative to the object: its number of links tells who else has them. Empty
            of what stands outside of the store: who else has that is told by ``Store.note_foreign``.
    """

    id: str
    bytes: int
    sample: str


@dataclass(frozen=True, slots=True)
class Size:
    """What an object weighs.

    Attributes:
        private: bytes of folders and of files that nobody else has.
        units: what may be shared.
    """

    private: int
    units: tuple[Unit, ...] = ()

    @property
    def apparent(self) -> int:
        """The bytes of all its files, whoever else has them: what du(1) says of it alone."""
        return self.private + sum(unit.bytes for unit in self.units)


@dataclass(frozen=True, slots=True)
class Measured:
    """A size, and the number of links that each unit's sample had, by the unit's id."""

    size: Size
    links: Mapping[str, int]


@dataclass
class _Group:
    """Files of one unit while a tree is walked."""

    inodes: set[int] = field(default_factory=set)
    bytes: int = 0
    sample: str = ""
    links: int = 0

    def add(self, state: os.stat_result, path: str) -> None:
        if state.st_ino not in self.inodes:
            self.inodes.add(state.st_ino)
            self.bytes += state.st_blocks * BLOCK
        if not self.sample or path < self.sample:
            self.sample, self.links = path, state.st_nlink


def with_others(size: Size, outside: Iterable[Unit]) -> Size:
    """The size of a tree, and of what belongs to the object and stands outside of the store."""
    return Size(size.private, (*size.units, *outside))


def measure(
    path: Path, units: Mapping[str, str] | None = None, linkable: Mapping[str, str] | None = None
) -> Measured:
    """Weighs a tree.

    A file all of whose links are inside of the tree counts as its own, once.

    Args:
        path: the tree.
        units: to which unit a file belongs, by its path relative to the tree; what is not named and linked
            from elsewhere makes up one more.
        linkable: the same for files that others link from here; such units they are also before anybody does.
    """
    private, linked = 0, dict[int, list[tuple[str, os.stat_result]]]()
    groups = dict[str, _Group]()
    for relative, state in _states(path):
        if linkable and relative in linkable and stat.S_ISREG(state.st_mode):
            groups.setdefault(linkable[relative], _Group()).add(state, relative)
        elif state.st_nlink == 1 or stat.S_ISDIR(state.st_mode):
            private += state.st_blocks * BLOCK
        else:
            linked.setdefault(state.st_ino, []).append((relative, state))
    for found in linked.values():
        relative, state = found[0]
        if len(found) == state.st_nlink:
            private += state.st_blocks * BLOCK
            continue
        groups.setdefault((units or {}).get(relative, ""), _Group()).add(state, relative)
    made = [(Unit(_id(group.inodes), group.bytes, group.sample), group.links) for group in groups.values()]
    made.sort(key=lambda each: each[0].id)
    return Measured(Size(private, tuple(unit for unit, _ in made)), {unit.id: n for unit, n in made})


def _id(inodes: set[int]) -> str:
    return hashlib.blake2b(repr(sorted(inodes)).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes of a tree.

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
    for _, state in _states(path):
        if state.st_nlink == 1 or stat.S_ISDIR(state.st_mode):
            own += state.st_blocks * BLOCK
        elif (state.st_dev, state.st_ino) not in seen:
            seen.add((state.st_dev, state.st_ino))
            linked += state.st_blocks * BLOCK
    return Weight(own, linked)


def _states(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The relative path and state of a tree's root and of all in it; what vanishes meanwhile is left out."""
    try:
        root = path.lstat()
    except FileNotFoundError:
        return
    yield "", root
    skip = len(str(path)) + 1
    pending = [str(path)] if stat.S_ISDIR(root.st_mode) else []
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
                yield entry.path[skip:], state
                if stat.S_ISDIR(state.st_mode):
                    pending.append(entry.path)
