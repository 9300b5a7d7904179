"""Commit markers: an object exists if, and only if, its marker does.

A marker is a small JSON file in a folder that only the daemon can write. It is written after the object's
content and removed before it, so whatever has no marker at start-up is unfinished or half deleted.

A damaged object has a marker of another name, with its generation in it: the key is free to be built again
while workers still stand on the old files.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from ray_envd.cache.durable import make_folders, replace_file, sync_folder
from ray_envd.cache.errors import CorruptError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Facts
from ray_envd.cache.removal import remove_tree

_log = logging.getLogger(__name__)
_NAME = re.compile(r"([0-9a-f]+)(?:\.(0|[1-9][0-9]{0,8})\.damaged)?\.json")


class MarkerName(NamedTuple):
    """Which marker: the one of a key, or with a generation the one of a damaged object."""

    key: ObjectKey
    damaged: int | None = None


class Markers:
    """The folder of markers. Everything here blocks; one caller at a time per key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, key: ObjectKey, facts: Facts) -> list[int]:
        """Publishes an object, or changes what is said of it; durable. Returns the marker's fingerprint."""
        path = self._path(MarkerName(key, facts.generation if facts.damaged else None))
        make_folders(path.parent, self._root)
        content = json.dumps(facts.to_json(), sort_keys=True).encode()
        replace_file(path, content)
        return _fingerprint(path.lstat())

    def read(self, name: MarkerName) -> Facts:
        """What a marker says.

        Raises:
            CorruptError: it is damaged.
            FileNotFoundError: there is none.
        """
        try:
            value = json.loads(self._path(name).read_bytes())
        except ValueError as error:
            raise CorruptError(f"the marker of {name.key.id} is damaged: {error}") from error
        return Facts.from_json(value)

    def remove(self, name: MarkerName) -> None:
        """Unpublishes an object; durable. Without a marker nothing happens.

        Raises:
            OSError: the marker is still there.
        """
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        try:
            # The content goes next. A loss of power must not bring the marker back to a half deleted object.
            sync_folder(path.parent)
        except OSError as error:
            _log.warning("the removal of %s may not survive a loss of power: %s", path, error)

    def all(self) -> dict[MarkerName, list[int]]:
        """Every marker with its fingerprint; files that are no markers are removed."""
        found = {}
        for uid in _scan(self._root):
            for kind in _scan(uid.path) if uid.is_dir(follow_symlinks=False) else ():
                for entry in _scan(kind.path) if kind.is_dir(follow_symlinks=False) else ():
                    name = _name(uid.name, kind.name, entry.name)
                    if name is not None and entry.is_file(follow_symlinks=False):
                        found[name] = _fingerprint(entry.stat(follow_symlinks=False))
                    else:
                        remove_tree(Path(entry.path))  # a leftover of a write
        return found

    def _path(self, name: MarkerName) -> Path:
        key, damaged = name
        file = f"{key.digest}.json" if damaged is None else f"{key.digest}.{damaged}.damaged.json"
        return self._root / str(key.owner) / key.kind / file


def _scan(folder: str | Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return list(entries)


def _name(uid: str, kind: str, file: str) -> MarkerName | None:
    parts = _NAME.fullmatch(file)
    if parts is None:
        return None
    try:
        return MarkerName(ObjectKey(int(uid), kind, parts[1]), None if parts[2] is None else int(parts[2]))
    except ValueError:
        return None


def _fingerprint(state: os.stat_result) -> list[int]:
    """Tells one version of a marker from every other without reading it: each write makes a new file."""
    return [state.st_mtime_ns, state.st_ino, state.st_size]
