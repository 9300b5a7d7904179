"""Pins on behalf of somebody who may lose interest while no daemon runs: the warm file.

Each *name* (there, a runtime env) pins some objects. A file in the store says which, and which of these were
pinned here, so that what somebody has pinned by hand stays pinned when the name goes.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ray_envd.cache.durable import replace_file
from ray_envd.cache.errors import NotFoundError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.stored import Stored

_log = logging.getLogger(__name__)


class Pins:
    """The pins of all names. Thread-safe; every method blocks.

    On disk an object stands among ours before it is pinned and until it is unpinned: a daemon that is killed
    in between leaves nothing pinned for ever.
    """

    def __init__(self, store: Stored, path: Path) -> None:
        """Reads the file; what cannot be read is as good as none, and what it pinned stays so."""
        self._store, self._path = store, path
        self._lock = threading.Lock()
        self._names: dict[str, tuple[ObjectKey, ...]] = {}
        self._ours: set[ObjectKey] = set()
        try:
            record = json.loads(path.read_bytes())
            self._names = {name: tuple(map(_key, keys)) for name, keys in record["names"].items()}
            self._ours = set(map(_key, record["ours"]))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is not readable; what it pinned must be unpinned by hand: %s", path, error)

    def take(self, name: str, keys: Sequence[ObjectKey]) -> None:
        """Pins the objects for a name, in place of those that it pinned before.

        Raises:
            NotFoundError: one of them is not there.
            OSError: the disk.
        """
        with self._lock:
            unpinned = [key for key in keys if not self._is_pinned(key)]
            if self._names.get(name) != tuple(keys) or not self._ours.issuperset(unpinned):
                self._names[name] = tuple(keys)
                self._ours.update(unpinned)
                self._write()
            for key in unpinned:
                self._store.pin(key)
            self._let_go()

    def retain(self, names: Iterable[str]) -> None:
        """Unpins what no other than these names wants.

        Raises:
            OSError: the disk.
        """
        with self._lock:
            left = {name: self._names[name] for name in set(names) & self._names.keys()}
            changed = left != self._names
            self._names = left
            if not self._let_go() and changed:
                self._write()

    def _is_pinned(self, key: ObjectKey) -> bool:
        entry = self._store.get(key)
        if entry is None:
            raise NotFoundError(f"no object {key.id}")
        return entry.pinned

    def _let_go(self) -> bool:
        """Unpins what is ours and wanted no more; whether there was any."""
        wanted = {key for keys in self._names.values() for key in keys}
        unwanted = self._ours - wanted
        for key in unwanted:
            with contextlib.suppress(NotFoundError):  # damaged, and so not there and not pinned
                self._store.unpin(key)
        if unwanted:
            self._ours -= unwanted
            self._write()
        return bool(unwanted)

    def _write(self) -> None:
        record: dict[str, Any] = {
            "names": {name: list(map(_text, keys)) for name, keys in self._names.items()},
            "ours": sorted(map(_text, self._ours)),
        }
        replace_file(self._path, json.dumps(record).encode())


def _text(key: ObjectKey) -> str:
    return f"{key.owner}/{key.id}"


def _key(text: str) -> ObjectKey:
    owner, kind, digest = text.split("/")
    return ObjectKey(int(owner), kind, digest)
