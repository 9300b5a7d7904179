"""What a store holds, in sums; and what it takes on disk besides: books, logs, trash, builds under way."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_envd.cache.layout import UserDirs
from ray_envd.cache.owner import acting_as
from ray_envd.cache.sizes import BLOCK, measure
from ray_envd.cache.store import Store


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the objects of a store.

    Attributes:
        objects: how many, by kind.
        stored: bytes on disk of all together.
        layers: of these, what are layers of images, in a storage of their own.
        apparent: bytes if none shared a file.
        exclusive: bytes that the removal of each one alone would free, by kind.
        damaged: how many are out of service.
    """

    objects: Mapping[str, int]
    stored: int
    layers: int
    apparent: int
    exclusive: Mapping[str, int]
    damaged: int


def totals(store: Store) -> Totals:
    """Looks at every object, in memory; with many of them it takes a moment: for threads."""
    entries, ledger = store.entries(), store.ledger()
    exclusive: Counter[str] = Counter()
    for entry in entries:
        exclusive[entry.key.kind] += ledger.exclusive(entry.size)
    return Totals(
        objects=Counter(entry.key.kind for entry in entries),
        stored=ledger.total,
        layers=ledger.beyond,
        apparent=sum(entry.size.apparent for entry in entries),
        exclusive=exclusive,
        damaged=sum(1 for entry in entries if entry.damaged),
    )


def other_bytes(store: Store) -> int:
    """Bytes of everything in the store but its objects and uv's caches; blocking.

    With ``stored_bytes`` and the uv caches' bytes it makes up what du(1) says of the store's folder. Files
    that a build has linked from uv's cache count there. What is being deleted now may count twice.
    """
    layout = store.layout
    objects = {entry.path for entry in store.entries()}
    total = _alone(layout.root) + _alone(layout.users)
    total += sum(_with_all(path) for path in _below(layout.root) if path != layout.users)
    for uid, _ in store.owners():
        with acting_as(layout.owner(uid)):
            total += _of_user(layout.user(uid), objects)
    return total


def _of_user(dirs: UserDirs, objects: set[Path]) -> int:
    total = _alone(dirs.root) + _alone(dirs.objects)
    for path in _below(dirs.root):
        if path not in {dirs.objects, dirs.uv_cache}:
            total += _with_all(path)
    for kind in _below(dirs.objects):
        total += _alone(kind)
        total += sum(_with_all(path) for path in _below(kind) if path not in objects)
    return total


def _with_all(path: Path) -> int:
    """A tree's bytes, without files that are linked from elsewhere."""
    try:
        return measure(path).size.private
    except PermissionError:  # a user may close his folders to everybody
        return _alone(path)


def _alone(path: Path) -> int:
    """The bytes of a file, or of a folder without what is in it."""
    try:
        return path.lstat().st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def _below(folder: Path) -> Iterator[Path]:
    """What a folder holds; nothing, if it is none or has gone."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are enough
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in names:
        yield folder / name
