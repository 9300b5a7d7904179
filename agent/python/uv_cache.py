"""A user's uv cache from outside: what it weighs, and which packages in it nobody uses any more.

The layout is uv's own (``uv help cache``, and the crate uv-cache) and may change with any of its versions,
so it is only read; uv's own commands delete. What is not found here is counted all the same, and goes last,
when all of the cache goes. Blocking; call as the owner.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from ray_envd.cache.sizes import Weight, weigh

#: Unpacked wheels, each under a name that is never given again; complete from the moment they are there.
_ARCHIVES = re.compile(r"archive-v\d+")
#: Where packages stand by their names: ``pypi/NAME``, ``index/HASH/NAME``, ``url/HASH/NAME``.
_BY_NAME = re.compile(r"(?:wheels|sdists)-v\d+")


@dataclass(frozen=True, slots=True)
class Package:
    """A package in uv's cache, all of its versions.

    Attributes:
        name: normalized.
        bytes: what its removal frees.
        linked: bytes of files that environments have too: its removal does not free them.
        used: unix seconds; when it was last added to, or last noted as used.
    """

    name: str
    bytes: int
    linked: int
    used: float


class Meter:
    """Weighs one cache again and again; unpacked wheels once each, since they do not change."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, int] = {}

    def measure(self) -> int:
        """The bytes of the whole cache, what environments link to included."""
        total = 0
        for entry in _entries(self._cache):
            if not _ARCHIVES.fullmatch(entry.name):
                total += weigh(Path(entry.path)).total
        archives = {path for bucket in _buckets(self._cache, _ARCHIVES) for path in _paths(bucket)}
        for path in archives - self._known.keys():
            self._known[path] = weigh(Path(path)).total
        for path in self._known.keys() - archives:
            del self._known[path]
        return total + sum(self._known.values())


def packages(cache: Path) -> list[Package]:
    """What the cache holds by package, least recently used first; walks the files of all of them."""
    found: dict[str, tuple[Weight, float]] = {}
    for folder in _folders(cache):
        name = canonicalize_name(folder.name)
        before, used = found.get(name, (Weight(), 0.0))
        weight = _with_archives(folder, cache)
        with contextlib.suppress(FileNotFoundError):
            used = max(used, folder.stat().st_mtime)
        found[name] = Weight(before.own + weight.own, before.linked + weight.linked), used
    made = [Package(name, weight.own, weight.linked, used) for name, (weight, used) in found.items()]
    return sorted(made, key=lambda package: (package.used, package.name))


def note_used(cache: Path, names: Iterable[str], when: float) -> None:
    """Remembers that these packages were used at that time (unix seconds), as the time of their folders."""
    wanted = {canonicalize_name(name) for name in names}
    for folder in _folders(cache):
        if canonicalize_name(folder.name) in wanted:
            with contextlib.suppress(OSError):
                if folder.stat().st_mtime < when:
                    os.utime(folder, (when, when))


def has(cache: Path, name: str, version: str) -> bool:
    """Whether a wheel of this version is unpacked in the cache, to be linked from there."""
    normal = canonicalize_name(name)
    return any(
        canonicalize_name(folder.name) == normal
        and any(entry.name.startswith(f"{version}-") and entry.is_dir() for entry in _entries(folder))
        for folder in _folders(cache)
    )


def _folders(cache: Path) -> Iterator[Path]:
    """The folders of packages."""
    for bucket in _buckets(cache, _BY_NAME):
        for kind in _entries(bucket):
            if kind.name == "pypi":
                yield from _subfolders(Path(kind.path))
            elif kind.name in {"index", "url"}:
                for place in _subfolders(Path(kind.path)):
                    yield from _subfolders(place)


def _buckets(cache: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    return (Path(entry.path) for entry in _entries(cache) if pattern.fullmatch(entry.name))


def _subfolders(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _paths(folder: Path) -> list[str]:
    return [entry.path for entry in _entries(folder)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _with_archives(folder: Path, cache: Path) -> Weight:
    """What a package's folder weighs, with the unpacked wheels that its links lead to."""
    weight = weigh(folder)
    own, linked = weight.own, weight.linked
    inside = os.path.realpath(cache) + os.sep
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(parent, name)  # noqa: PTH118 - thousands of them
            if os.path.islink(path) and (target := os.path.realpath(path)).startswith(inside):  # noqa: PTH114 - as above
                weight = weigh(Path(target))
                own, linked = own + weight.own, linked + weight.linked
    return Weight(own, linked)
