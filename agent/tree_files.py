"""A session's tree on disk: made whole, compared with what it was, set aside, removed.

A small file beside each tree says from what it was made and how it looked then; it is written last, so a tree
without one is unfinished. What is looked at is everything that a write changes: names, types, modes, sizes,
and the times of the last modification and change, of which a user can set only the first. All of it blocks.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.removal import remove_tree

_log = logging.getLogger(__name__)
_BLOCK = 512
_CACHE = "__pycache__"

#: Fills a path that does not exist, as the owner; asks now and then whether it is to stop. Returns bytes.
Make = Callable[[Path, Callable[[], bool]], int]


@dataclass(frozen=True, slots=True)
class Look:
    """How a tree looks.

    Attributes:
        digest: of all in it but what lies in folders of compiled modules, unless those were asked for.
        bytes: the blocks of all in it.
        caches: its folders of compiled modules.
    """

    digest: str
    bytes: int
    caches: tuple[str, ...]

    @classmethod
    def at(cls, root: Path, *, with_caches: bool) -> "Look":
        """Looks; call as the owner.

        Raises:
            OSError: the tree cannot be read to its end.
        """
        digest, size, caches = hashlib.sha256(), 0, []
        for folder, entries, in_cache in _walk(root):
            seen = []
            for name, state in entries:
                size += state.st_blocks * _BLOCK
                look = f"{state.st_mode}, {state.st_size}, {state.st_mtime_ns}, {state.st_ctime_ns}"
                if stat.S_ISDIR(state.st_mode):
                    # Its times change when compiled modules come; what is in it is listed anyway.
                    look = f"{state.st_mode},"
                    if name == _CACHE:
                        caches.append(f"{folder}{name}")
                        if not with_caches:
                            continue
                seen.append(f"{folder}{name}\0({look})\n")
            if with_caches or not in_cache:
                digest.update(os.fsencode("".join(seen)))
        return cls(digest.hexdigest(), size, tuple(caches))


def _walk(root: Path) -> Iterator[tuple[str, list[tuple[str, os.stat_result]], bool]]:
    """Every folder, in a fixed order: its name and a slash, what is in it, if it is in a ``__pycache__``."""
    pending: list[tuple[str, bool]] = [("", False)]
    while pending:
        folder, in_cache = pending.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
        yield folder, found, in_cache
        pending += (
            (f"{folder}{name}/", in_cache or name == _CACHE)
            for name, state in found
            if stat.S_ISDIR(state.st_mode)
        )


@dataclass(frozen=True, slots=True)
class Record:
    """What is written beside a tree.

    Attributes:
        archive: what it was made from; the name is that of the first version of these files.
        bytes: its size when it was made, or when it was last looked at.
        digest: how it looked; empty if an earlier version made it.
        caches: it came with compiled modules of its own.
        is_left: a job has written into it, and nobody is given it any more.
    """

    archive: str
    bytes: int
    digest: str = ""
    caches: bool = False
    is_left: bool = False


def record_path(path: Path) -> Path:
    """Where a tree's record is."""
    return path.with_name(f".{path.name}.ray-envd.json")


def read_record(path: Path, owner: Owner) -> Record | None:
    """The record of a finished tree, or None if there is none."""
    with acting_as(owner):
        try:
            value = json.loads(record_path(path).read_text())
            record = Record(
                archive=str(value["archive"]),
                bytes=int(value["bytes"]),
                digest=str(value.get("digest", "")),
                caches=bool(value.get("caches")),
                is_left=bool(value.get("is_left")),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if path.is_dir() else None


def records(folder: Path, owner: Owner) -> dict[Path, Record]:
    """Every finished tree in a folder."""
    with acting_as(owner):
        try:
            names = [path.name for path in folder.glob(".*.ray-envd.json")]
        except OSError:
            return {}
    paths = [folder / name.removeprefix(".").removesuffix(".ray-envd.json") for name in names]
    found = {path: read_record(path, owner) for path in paths}
    return {path: record for path, record in found.items() if record is not None}


def _write_record(path: Path, record: Record) -> None:
    aside = record_path(path).with_suffix(f".{secrets.token_hex(4)}")
    aside.write_text(json.dumps(asdict(record)))
    aside.replace(record_path(path))


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A finished tree that cannot be handed out.

    Attributes:
        is_changed: somebody has written into it; otherwise it was made from something else.
        bytes: its size now.
    """

    is_changed: bool
    bytes: int


def take_or_make(
    path: Path,
    origin: str,
    owner: Owner,
    make: Make,
    stopped: Callable[[], bool],
    begins: Callable[[], object],
) -> Record | InTheWay:
    """The tree that stands there, if it is as it was made from the origin; made if there is none.

    Calls ``begins`` before it makes one. Raises what :func:`make_tree` does.
    """
    record = read_record(path, owner)
    if record is None:
        begins()
        return make_tree(path, origin, owner, make, stopped)
    changed, size = has_changed(path, owner)
    return InTheWay(changed, size) if changed or record.archive != origin else record


def make_tree(path: Path, origin: str, owner: Owner, make: Make, stopped: Callable[[], bool]) -> Record:
    """Makes a tree in place of whatever stands there.

    Raises:
        OSError, UnsafeArchiveError: it cannot be made; without a record, what is left of it is nothing.
    """
    with acting_as(owner):
        path.parent.mkdir(parents=True, exist_ok=True)
        record_path(path).unlink(missing_ok=True)
        remove_tree(path)
        size = make(path, stopped)
        look = Look.at(path, with_caches=True)
        record = Record(origin, size, look.digest, caches=bool(look.caches))
        _write_record(path, record)
        return record


def has_changed(path: Path, owner: Owner) -> tuple[bool, int]:
    """Whether anything in a tree is not as it was made, and its bytes now.

    Compiled modules that its users left are no change if it came without: they are removed.
    """
    record = read_record(path, owner)
    if record is None or record.is_left:
        return True, 0
    with acting_as(owner):
        try:
            look = Look.at(path, with_caches=record.caches)
            if look.digest != record.digest:
                return True, look.bytes
            if not record.caches:
                for cache in look.caches:
                    remove_tree(path / cache)
        except OSError as error:
            _log.info("%s is made anew: %s", path, error)
            return True, record.bytes
        return False, record.bytes


def set_aside(path: Path, size: int, owner: Owner) -> Path | None:
    """Gives a tree that was written into a name of its own beside the others; None if that failed."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    left = path.with_name(f"{path.name}.left-{stamp}-{secrets.token_hex(2)}")
    with acting_as(owner):
        try:
            record_path(path).unlink(missing_ok=True)
            path.rename(left)
            _write_record(left, Record("", size, is_left=True))
        except OSError as error:
            _log.warning("cannot set %s aside: %s", path, error)
            return None
        return left


def remove(path: Path, owner: Owner) -> None:
    """Removes a tree and its record; renamed first, so that a new one can be made at once."""
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.trash")
    with acting_as(owner):
        try:
            record_path(path).unlink(missing_ok=True)
            path.rename(doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("cannot remove %s: %s", path, error)
            return
        with contextlib.suppress(OSError):
            remove_tree(doomed)
