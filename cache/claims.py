"""Claims: what stands outside of the store by our doing, written down before it is made.

Layers of images are podman's. If the daemon dies between a pull and the commit of its object, or between the
end of an object and the removal of its image, nobody would ever remove them: so each has a claim, a small
JSON file in a folder that only the daemon can write, from before it is made until it is gone.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_envd.cache.durable import is_leftover, make_folders, replace_file, sync_folder

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z0-9-]{1,200}")


class Claims:
    """The folder of claims, one file each. Everything here blocks; one caller at a time per claim."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, owner: int, name: str, said: Mapping[str, Any]) -> None:
        """Writes a claim of a user's, or another in its place; durable.

        Args:
            owner: uid.
            name: of lower letters, digits and hyphens.
            said: JSON without secrets.

        Raises:
            OSError: the disk.
        """
        path = self._path(owner, name)
        make_folders(path.parent, self._root)
        replace_file(path, json.dumps(said, sort_keys=True).encode())

    def get(self, owner: int, name: str) -> dict[str, Any] | None:
        """What a claim says; None if there is none, or none that can be read."""
        try:
            said = json.loads(self._path(owner, name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("the claim %s of uid %d cannot be read: %s", name, owner, error)
            return None
        return said if isinstance(said, dict) else None

    def drop(self, owner: int, name: str) -> None:
        """Removes a claim; durable. Without one nothing happens.

        Raises:
            OSError: it is still there.
        """
        path = self._path(owner, name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        sync_folder(path.parent)

    def all(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Every claim that can be read, with owner and name; what a dead daemon was writing is removed."""
        for uid in _names(self._root):
            for file in _names(self._root / uid) if uid.isdecimal() else ():
                if is_leftover(file):
                    (self._root / uid / file).unlink(missing_ok=True)
                    continue
                name = file.removesuffix(".json")
                if _NAME.fullmatch(name) and (said := self.get(int(uid), name)) is not None:
                    yield int(uid), name, said

    def _path(self, owner: int, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a claim's name: {name!r}")
        return self._root / str(owner) / f"{name}.json"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are enough
    except (FileNotFoundError, NotADirectoryError):
        return []
