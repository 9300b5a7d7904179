"""The catalog: what is stored, for a quick start; on diskcache, as JSON (never pickle), one row per object.

Rows stand together in shards, by a checksum of their names, since a start reads all of them and each value
of the database costs a query: ten thousand take half a second one by one. Earlier versions kept each row by
itself; those are taken into the shards. An earlier version that finds shards makes its rows from the markers.

It is a copy. The truth about objects is in their markers; only use and links are kept here alone, and losing
those costs time, not correctness. So a catalog that cannot be read is moved aside and made anew, and a
write that fails is logged and does not fail what it was about: the next start finds the difference.

Where there is none yet, nobody waits until it is made: for that diskcache waits for the disk a dozen times,
each time for seconds if others keep it busy.
"""

import errno
import logging
import os
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diskcache

from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.removal import remove_tree

_log = logging.getLogger(__name__)
_UNLIMITED = 2**62
_SHARDS = 256
_SHARD = "shard/"  # names of rows begin with a number

#: What sqlite, zlib and json raise on damage, and diskcache when the file is of another version of it.
_DAMAGE = (
    sqlite3.Error,
    diskcache.Timeout,
    zlib.error,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OSError,
)


class Catalog:
    """Rows by name. Thread-safe; everything blocks.

    Attributes:
        rows: what was there when it was opened; the opener takes it out.
    """

    def __init__(self, cache: diskcache.Cache | None, rows: dict[str, Any]) -> None:
        self._cache = cache  # touched by the writer's thread only
        self._is_open = True
        self.rows = rows
        # sqlite writes one after the other anyway, and diskcache opens a connection (three descriptors) in
        # each thread that comes along: one thread does it for all.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="catalog")

    @classmethod
    def open(cls, folder: Path, aside: Path) -> "Catalog":
        """Opens the catalog, or a new one; a damaged one goes to ``aside`` in place of an earlier one.

        A new one is made while the caller goes on; writes wait for it. On a full disk there is none this
        time: the daemon must start all the same, to make room.
        """
        if not os.path.lexists(folder):
            made = cls(None, {})
            made._writer.submit(made._make, folder)
            return made
        try:
            return cls(*_read(folder))
        except _DAMAGE as error:
            if not _is_full(error):
                _log.warning(
                    "the catalog %s cannot be read (%r): moved to %s, made anew", folder, error, aside
                )
                _set_aside(folder, aside)
        try:
            return cls(*_read(folder))
        except _DAMAGE as error:
            _without(error)
        return cls(None, {})

    def _make(self, folder: Path) -> None:
        try:
            self._cache, _ = _read(folder)
        except _DAMAGE as error:
            _without(error)

    def put_many(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Writes rows through, all or none."""
        self._write(dict(rows))

    def drop(self, names: Iterable[str]) -> None:
        """Removes rows; those that are not there do not matter."""
        self._write(dict.fromkeys(names))

    def _write(self, changes: Mapping[str, Any]) -> None:
        if not changes or not self._is_open:
            return
        try:
            self._writer.submit(self._commit, changes).result()
        except _DAMAGE as error:
            _log.warning("the catalog cannot be written: %r", error)

    def _commit(self, changes: Mapping[str, Any]) -> None:
        if self._cache is not None:
            _change(self._cache, changes)

    def close(self) -> None:
        """Closes the database; again is harmless. Nothing is written from then on."""
        if self._is_open:
            self._is_open = False
            self._writer.submit(self._close).result()
            self._writer.shutdown()

    def _close(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()


def _change(cache: diskcache.Cache, changes: Mapping[str, Any]) -> None:
    """Writes rows into their shards; None takes one out."""
    by_shard: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, row in changes.items():
        by_shard[_shard_of(name)][name] = row
    with cache.transact():
        for shard, changed in by_shard.items():
            rows = _rows(cache, shard) | changed
            cache.set(shard, {name: row for name, row in rows.items() if row is not None})


def _shard_of(name: str) -> str:
    return f"{_SHARD}{zlib.crc32(name.encode()) % _SHARDS:02x}"


def _rows(cache: diskcache.Cache, shard: str) -> dict[str, Any]:
    """A shard's rows; none if it is damaged: their markers know most of it."""
    try:
        return dict(mapping(cache.get(shard)))
    except (zlib.error, ValueError) as error:
        _log.warning("%s of the catalog is damaged, its rows are made anew: %r", shard, error)
        return {}


def _read(folder: Path) -> tuple[diskcache.Cache, dict[str, Any]]:
    folder.mkdir(mode=0o700, exist_ok=True)
    cache = diskcache.Cache(
        str(folder),
        disk=diskcache.JSONDisk,
        # Rows stay in the database (never in files beside it), and none is ever culled.
        disk_min_file_size=_UNLIMITED,
        eviction_policy="none",
        cull_limit=0,
        size_limit=_UNLIMITED,
        statistics=0,
    )
    try:
        with cache.transact():  # one transaction: many times quicker than one for each shard
            rows = _read_rows(cache)
    finally:
        cache.close()  # this thread's connection
    return cache, rows


def _read_rows(cache: diskcache.Cache) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    single = {}
    for name in list(cache.iterkeys()):
        if name.startswith(_SHARD):
            rows |= _rows(cache, name)
        else:
            single[name] = cache[name]  # of an earlier version
    if single:
        _change(cache, single)
        for name in single:
            cache.delete(name)
    return rows | single


def _without(error: Exception) -> None:
    _log.warning("working without a catalog until the next start: %r", error)


def _is_full(error: Exception) -> bool:
    """Whether the disk is full, rather than the database damaged."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _set_aside(folder: Path, aside: Path) -> None:
    try:
        remove_tree(aside)
        folder.rename(aside)
    except OSError as error:
        _log.warning("cannot move %s: %s", folder, error)


def mapping(value: Any) -> Mapping[str, Any]:
    """A row as an object of JSON; an empty one if it is none, since rows are not trusted."""
    return value if isinstance(value, dict) else {}


def object_name(key: ObjectKey) -> str:
    """The row of an object."""
    return f"{key.owner}/{key.id}"
