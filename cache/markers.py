"""Commit markers: an object exists if, and only if, its marker does.

A marker is a small JSON file in a folder that only the daemon can write. It is written after the object's
content and removed before it, so whatever has no marker at start-up is unfinished or half deleted.
"""

import json
import logging
import os
from pathlib import Path

from ray_envd.cache.durable import make_folders, replace_file, sync_folder
from ray_envd.cache.errors import CorruptError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Facts
from ray_envd.cache.removal import remove_tree

_log = logging.getLogger(__name__)
_SUFFIX = ".json"


class Markers:
    """The folder of markers. Everything here blocks; one caller at a time per key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, key: ObjectKey, facts: Facts) -> list[int]:
        """Publishes an object, or changes what is said of it; durable. Returns the marker's fingerprint."""
        path = self._path(key)
        make_folders(path.parent, self._root)
        content = json.dumps(facts.to_json(), sort_keys=True).encode()
        replace_file(path, content)
        return _fingerprint(path.lstat())

    def read(self, key: ObjectKey) -> Facts:
        """What a marker says.

        Raises:
            CorruptError: it is damaged.
            FileNotFoundError: there is none.
        """
        try:
            value = json.loads(self._path(key).read_bytes())
        except ValueError as error:
            raise CorruptError(f"the marker of {key.id} is damaged: {error}") from error
        return Facts.from_json(value)

    def remove(self, key: ObjectKey) -> None:
        """Unpublishes an object; durable. Without a marker nothing happens.

        Raises:
            OSError: the marker is still there.
        """
        path = self._path(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        try:
            # The content goes next. A loss of power must not bring the marker back to a half deleted object.
            sync_folder(path.parent)
        except OSError as error:
            _log.warning("the removal of %s may not survive a loss of power: %s", path, error)

    def all(self) -> dict[ObjectKey, list[int]]:
        """Every marker with its fingerprint; files that are no markers are removed."""
        found = {}
        for uid in _scan(self._root):
            for kind in _scan(uid.path) if uid.is_dir(follow_symlinks=False) else ():
                for entry in _scan(kind.path) if kind.is_dir(follow_symlinks=False) else ():
                    key = _key(uid.name, kind.name, entry.name)
                    if key is not None and entry.is_file(follow_symlinks=False):
                        found[key] = _fingerprint(entry.stat(follow_symlinks=False))
                    else:
                        remove_tree(Path(entry.path))  # a leftover of a write
        return found

    def _path(self, key: ObjectKey) -> Path:
        return self._root / str(key.owner) / key.kind / f"{key.digest}{_SUFFIX}"


def _scan(folder: str | Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return list(entries)


def _key(uid: str, kind: str, name: str) -> ObjectKey | None:
    if not name.endswith(_SUFFIX):
        return None
    try:
        return ObjectKey(int(uid), kind, name.removesuffix(_SUFFIX))
    except ValueError:
        return None


def _fingerprint(state: os.stat_result) -> list[int]:
    """Tells one version of a marker from every other without reading it: each write makes a new file."""
    return [state.st_mtime_ns, state.st_ino, state.st_size]
