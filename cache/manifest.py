"""Manifests: what an object's tree was when it was sealed, file by file, to tell later what became of it.

A manifest stands where only the daemon writes: ``manifests-v1/<uid>/<kind>/<digest>.<generation>.json.z``.
It is good for one object only, the one whose marker names the same moment of creation: an older daemon, which
knows no manifests, may have removed that object and built another of the same name.
"""

import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ray_envd.cache.durable import make_folders, replace_file
from ray_envd.cache.inventory import Found, parse, to_lines
from ray_envd.cache.keys import ObjectKey

_log = logging.getLogger(__name__)
_VERSION = 1
_SUFFIX = ".json.z"
#: zlib's: digests do not compress, and the rest does at any level.
_LEVEL = 3
_WRITE_BITS = 0o222
#: What Python leaves when it imports at another level of optimisation, or died while it wrote.
_STRAY = re.compile(r"(?:.*/)?__pycache__(?:/[^/]+\.pyc(?:\.\d+)?)?")


class Change(StrEnum):
    """What became of a file."""

    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that is not as it was.

    Attributes:
        path: relative to the object.
        change: what became of it.
        package: the distribution that brought it; empty if none did.
        is_shared: others have this very file (uv's cache, another environment), and so the change as well.
        content: its digest now, where it was read.
    """

    path: str
    change: Change
    package: str = ""
    is_shared: bool = False
    content: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a look at an object found.

    Attributes:
        differences: by path.
        strays: compiled modules, and folders of such, that were added by those who ran them: harmless.
    """

    differences: tuple[Difference, ...]
    strays: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object's tree when it was sealed.

    Attributes:
        created: the marker's, of the object that it describes.
        files: everything in it, by path.
    """

    created: float
    files: dict[str, Found]

    @classmethod
    def of(cls, created: float, found: Iterable[Found]) -> "Manifest":
        """The manifest of an inventory that was taken with digests."""
        return cls(created, {each.path: each for each in found})

    @property
    def unlike(self) -> tuple[str, ...]:
        """Files that were not what their wheel's RECORD says, at the time of sealing.

        Not damage by itself: there are wheels whose RECORD is wrong.
        """
        return tuple(each.path for each in self.files.values() if each.is_unlike)

    def compare(self, found: Sequence[Found]) -> Comparison:
        """What has changed since.

        Where the inventory has digests they decide, else sizes and times do. Write permissions do not count:
        sealing other objects takes them away from shared files.
        """
        now = {each.path: each for each in found}
        differences = [
            _difference(before, now.get(path), change)
            for path, before in self.files.items()
            if (change := _change(before, now.get(path))) is not None
        ]
        added = now.keys() - self.files.keys()
        strays = {path for path in added if _STRAY.fullmatch(path)}
        differences += [Difference(path, Change.ADDED) for path in added - strays]
        # Deepest first: a folder goes after what is in it.
        return Comparison(
            tuple(sorted(differences, key=lambda each: each.path)), tuple(sorted(strays, reverse=True))
        )


def _difference(before: Found, now: Found | None, change: Change) -> Difference:
    is_shared = now is not None and now.type == "f" and now.links > 1
    content = "" if now is None else now.content
    return Difference(before.path, change, before.package, is_shared=is_shared, content=content)


def _change(before: Found, now: Found | None) -> Change | None:
    if now is None:
        return Change.MISSING
    same = before.type == now.type and before.mode & ~_WRITE_BITS == now.mode & ~_WRITE_BITS
    if now.content or now.type != "f":
        same = same and before.content == now.content
    else:
        same = same and (before.size, before.mtime_ns) == (now.size, now.mtime_ns)
    return None if same else Change.CHANGED


class Manifests:
    """The folder of manifests; blocking."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, key: ObjectKey, generation: int, manifest: Manifest) -> None:
        """Keeps a manifest; durable.

        Raises:
            OSError: the disk.
        """
        path = self._path(key, generation)
        make_folders(path.parent, self._root)
        head = json.dumps({"version": _VERSION, "created": manifest.created})
        text = "\n".join((head, *to_lines(tuple(manifest.files.values()))))
        replace_file(path, zlib.compress(text.encode(), _LEVEL))

    def read(self, key: ObjectKey, generation: int, created: float) -> Manifest | None:
        """The manifest of an object that was created then; None if there is none that can be read."""
        path = self._path(key, generation)
        try:
            head, *lines = zlib.decompress(path.read_bytes()).decode().split("\n")
            value = json.loads(head)
            if value["version"] != _VERSION or value["created"] != created:
                return None
            return Manifest.of(created, parse(lines))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            _log.warning("the manifest %s cannot be read: %s", path, error)
            return None

    def remove(self, key: ObjectKey, generation: int) -> None:
        """Removes a manifest, if there is one.

        Raises:
            OSError: the disk.
        """
        self._path(key, generation).unlink(missing_ok=True)

    def sweep(self, live: Iterable[tuple[ObjectKey, int]]) -> int:
        """Removes the manifests of all but these objects; returns how many."""
        kept = {self._path(key, generation) for key, generation in live}
        gone = [path for path in self._all() if path not in kept]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _all(self) -> Iterator[Path]:
        return self._root.glob("*/*/*")

    def _path(self, key: ObjectKey, generation: int) -> Path:
        return self._root / str(key.owner) / key.kind / f"{key.digest}.{generation}{_SUFFIX}"
