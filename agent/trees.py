"""The folders of one session: unpacked packages, and files made for its workers.

A package is unpacked once per session under the raylet's ``--runtime-env-dir``, where stock unpacks it and
Ray's users and containers look for it, because workers write into it. A small file beside each tree says
from which archive it came; it is written last, so a tree without one is unfinished. Unused trees stay until
the session's own limit for the field is passed (``RAY_RUNTIME_ENV_<FIELD>_CACHE_SIZE_GB``, 10 as in stock).
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ray_envd.agent.errors import ArchiveError, EnvError
from ray_envd.agent.once import Once
from ray_envd.agent.sessions import Session
from ray_envd.agent.workshop import Report
from ray_envd.cache.archive import ArchiveLimits, unpack
from ray_envd.cache.errors import UnsafeArchiveError
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.removal import remove_tree

_log = logging.getLogger(__name__)
_DEFAULT_LIMIT = 10 * 1024**3
_FOLDERS = {"working_dir": "working_dir_files", "py_modules": "py_modules_files"}


@dataclass
class _Tree:
    field: str
    bytes: int
    last_used: float


class Trees:
    """Every session's trees. On the event loop, but for what runs in threads."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self._limits = limits
        self._trees: dict[str, dict[str, _Tree]] = {}
        self._once = Once()
        self._shrinking: set[asyncio.Task[None]] = set()

    def path(self, session: Session, field: str, name: str) -> Path:
        """Where a package of this name goes: the folder that stock uses."""
        return session.runtime_env_dir / _FOLDERS[field] / name

    async def materialize(
        self,
        session: Session,
        field: str,
        name: str,
        archive: Path,
        digest: str,
        *,
        strip_top_level: bool,
        report: Report,
    ) -> tuple[Path, bool]:
        """The session's tree of an archive, unpacked if it is not there; and whether it had to be.

        Raises:
            ArchiveError: the archive is damaged or unsafe; nothing is left of it.
        """
        path = self.path(session, field, name)
        known = self._trees.setdefault(session.id, {}).get(str(path))
        if known is not None:
            known.last_used = time.time()
            return path, False
        make = partial(
            self._unpack,
            session,
            field,
            path,
            archive,
            digest,
            strip_top_level=strip_top_level,
            report=report,
        )
        return path, await self._once.do(str(path), make)

    async def _unpack(
        self,
        session: Session,
        field: str,
        path: Path,
        archive: Path,
        digest: str,
        *,
        strip_top_level: bool,
        report: Report,
    ) -> bool:
        found = await asyncio.to_thread(_finished_size, path, digest, session.owner)
        if found is None:
            report("unpacking", path.name)
            stopped = threading.Event()
            work = asyncio.to_thread(
                _make_tree,
                archive,
                path,
                digest,
                session.owner,
                self._limits,
                stopped.is_set,
                strip_top_level=strip_top_level,
            )
            task = asyncio.ensure_future(work)
            try:
                size = await asyncio.shield(task)
            except asyncio.CancelledError:
                stopped.set()
                await asyncio.wait({task})
                raise
            except UnsafeArchiveError as error:
                raise ArchiveError(str(error), field=field, remedy="make the package anew") from error
            except OSError as error:
                raise EnvError(
                    f"cannot unpack to {path.parent}: {error.strerror}",
                    field=field,
                    remedy="check that the cluster's temporary folder is writable and has space",
                ) from error
        else:
            size = found
        self._trees.setdefault(session.id, {})[str(path)] = _Tree(field, size, time.time())
        return found is None

    def use(self, session_id: str, paths: tuple[str, ...]) -> bool:
        """Whether all of these trees are there; counts as a use. Loop-safe."""
        trees = self._trees.get(session_id, {})
        if any(path not in trees for path in paths):
            return False
        now = time.time()
        for path in paths:
            trees[path].last_used = now
        return True

    async def recover(self, session: Session, paths: set[str]) -> None:
        """Finds the trees that an earlier daemon unpacked for this session."""
        known = self._trees.setdefault(session.id, {})
        for text in paths - known.keys():
            path = Path(text)
            field = next((f for f, folder in _FOLDERS.items() if folder == path.parent.name), None)
            size = await asyncio.to_thread(_finished_size, path, None, session.owner)
            if field is not None and size is not None:
                known[text] = _Tree(field, size, time.time())

    def forget(self, session_id: str) -> None:
        """The session has ended. Its trees stay on disk, as in stock: they may hold a job's results."""
        self._trees.pop(session_id, None)

    def shrink(self, session: Session, in_use: Callable[[], set[str]]) -> None:
        """Removes the least recently used trees that nobody uses while a field's limit is passed."""
        trees = self._trees.get(session.id, {})
        for field in _FOLDERS:
            limit = session.settings.cache_bytes.get(field, _DEFAULT_LIMIT)
            excess = sum(tree.bytes for tree in trees.values() if tree.field == field) - limit
            if excess <= 0:
                continue
            busy = in_use()
            unused = [(p, t) for p, t in trees.items() if t.field == field and p not in busy]
            for path, tree in sorted(unused, key=lambda item: item[1].last_used):
                if excess <= 0:
                    break
                excess -= tree.bytes
                del trees[path]
                self._remove(Path(path), session.owner)

    def _remove(self, path: Path, owner: Owner) -> None:
        # Renamed at once, so that a new request for the same package starts afresh.
        doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.trash")
        with acting_as(owner):
            try:
                _record_path(path).unlink(missing_ok=True)
                path.rename(doomed)
            except OSError as error:
                _log.warning("cannot remove %s: %s", path, error)
                return
        task = asyncio.ensure_future(asyncio.to_thread(_delete, doomed, owner))
        self._shrinking.add(task)
        task.add_done_callback(self._shrinking.discard)


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.ray-envd.json")


def _finished_size(path: Path, digest: str | None, owner: Owner) -> int | None:
    """The size of a finished tree of this archive (None: of any), or None if there is none."""
    with acting_as(owner):
        try:
            record = json.loads(_record_path(path).read_text())
            whole = path.is_dir() and digest in {None, record["archive"]}
            return int(record["bytes"]) if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _make_tree(
    archive: Path,
    path: Path,
    digest: str,
    owner: Owner,
    limits: ArchiveLimits,
    cancelled: Callable[[], bool],
    *,
    strip_top_level: bool,
) -> int:
    with acting_as(owner):
        path.parent.mkdir(parents=True, exist_ok=True)
        _record_path(path).unlink(missing_ok=True)
        remove_tree(path)
        done = unpack(archive, path, strip_top_level=strip_top_level, limits=limits, cancelled=cancelled)
        record = json.dumps({"archive": digest, "bytes": done.bytes})
        aside = _record_path(path).with_suffix(f".{secrets.token_hex(4)}")
        aside.write_text(record)
        aside.replace(_record_path(path))
        return done.bytes


def _delete(path: Path, owner: Owner) -> None:
    with acting_as(owner), contextlib.suppress(OSError):
        remove_tree(path)


def write_private(path: Path, text: str, owner: Owner) -> None:
    """Writes a file that only its owner can read, whole or not at all; blocking."""
    with acting_as(owner):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        aside.replace(path)


def remove_private(path: Path, owner: Owner) -> None:
    """Removes what :func:`write_private` wrote; blocking."""
    with acting_as(owner), contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
