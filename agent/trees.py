"""The folders of one session: unpacked packages, and the layers that its workers write into.

They stand under the raylet's ``--runtime-env-dir``, packages where stock unpacks them and Ray's users and
containers look for them. Raylets of one cluster on one machine may share that folder, so trees are known by
path and used by (session, env).

A tree that is in use is shared by its users, as in stock. Once the last has gone it is looked at, and if a
job has written into it the next one gets it made anew: what stands there then is set aside under a name of
its own, for it may hold a job's results. Unused trees stay until the session's own limit for the field is
passed (``RAY_RUNTIME_ENV_<FIELD>_CACHE_SIZE_GB``, 10 as in stock).
"""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ray_envd.agent import tree_files
from ray_envd.agent.errors import ArchiveError, EnvError
from ray_envd.agent.once import Once
from ray_envd.agent.room import Report, disk_full
from ray_envd.agent.sessions import Session
from ray_envd.agent.tree_files import InTheWay, Make, Record
from ray_envd.cache.errors import UnsafeArchiveError
from ray_envd.cache.owner import Owner

T = TypeVar("T")
_DEFAULT_LIMIT = 10 * 1024**3
#: The field of the layers: of no use to people, so those that were written into are not kept.
LAYERS = "layers"
_FOLDERS = {
    "working_dir": Path("working_dir_files"),
    "py_modules": Path("py_modules_files"),
    LAYERS: Path("ray-envd/envs"),
}
#: Seconds between the last user's leave and the look: a worker's process may still be on its way out.
_PAUSE = 1.0


class _State(Enum):
    PRISTINE = auto()
    SUSPECT = auto()  # its last user has gone, and nobody has looked at it yet
    CHANGED = auto()


@dataclass
class _Tree:
    field: str
    root: Path
    owner: Owner
    origin: str
    bytes: int
    last_used: float
    state: _State = _State.PRISTINE
    users: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def serves(self, origin: str) -> bool:
        """Whether it can be handed out for what is made from this; while in use it is, as in stock."""
        return bool(self.users) or (self.state is _State.PRISTINE and self.origin == origin)


class Trees:
    """Every session's trees. On the event loop, but for what runs in threads."""

    def __init__(self) -> None:
        self._trees: dict[str, _Tree] = {}
        self._roots: dict[str, Path] = {}  # by session
        self._used: dict[tuple[str, str], set[str]] = {}  # by (session, env)
        self._once = Once()
        self._later: set[asyncio.Future[Any]] = set()

    def path(self, session: Session, field: str, name: str) -> Path:
        """Where a tree of this name goes; for packages, the folder that stock uses."""
        return session.runtime_env_dir / _FOLDERS[field] / name

    async def obtain(
        self, session: Session, field: str, name: str, origin: str, make: Make, report: Report
    ) -> Path:
        """The session's tree of this name, as it was made or in use; made if need be.

        Raises:
            ArchiveError: it cannot be made from what it is to be made from.
            EnvError: the disk.
        """
        path = self.path(session, field, name)
        while (known := self._trees.get(str(path))) is None or not known.serves(origin):
            work = partial(self._renew, session, field, path, origin, make, report)
            await self._once.do(str(path), work)
        known.last_used = time.time()
        return path

    async def _renew(
        self, session: Session, field: str, path: Path, origin: str, make: Make, report: Report
    ) -> None:
        """Takes what stands there if it is as it was made from the origin; else makes it anew."""
        owner = session.owner
        known = self._trees.get(str(path))
        if known is not None and known.serves(origin):
            return
        self._trees.pop(str(path), None)
        stopped, loop = threading.Event(), asyncio.get_running_loop()
        tell = partial(report, "preparing" if field == LAYERS else "unpacking", path.name)
        words = (path, origin, owner, make, stopped.is_set)
        take = partial(tree_files.take_or_make, *words, partial(loop.call_soon_threadsafe, tell))
        found = await self._made(take, field, path, stopped)
        if isinstance(found, InTheWay):
            await self._set_aside(session, field, path, found, report)
            tell()
            found = await self._made(partial(tree_files.make_tree, *words), field, path, stopped)
        self._know(path, field, session.runtime_env_dir, owner, found)

    async def _made(self, work: Callable[[], T], field: str, path: Path, stopped: threading.Event) -> T:
        try:
            return await _whole(asyncio.to_thread(work), stopped)
        except UnsafeArchiveError as error:
            raise ArchiveError(str(error), field=field, remedy="make the package anew") from error
        except OSError as error:
            raise disk_full(error, field) or EnvError(
                f"cannot write to {path.parent}: {error.strerror}",
                field=field,
                remedy="check that the cluster's temporary folder is writable and has space",
            ) from error

    async def _set_aside(
        self, session: Session, field: str, path: Path, found: InTheWay, report: Report
    ) -> None:
        if field == LAYERS or not found.is_changed:
            await _whole(asyncio.to_thread(tree_files.remove, path, session.owner))
            return
        left = await _whole(asyncio.to_thread(tree_files.set_aside, path, found.bytes, session.owner))
        if left is not None:
            report("kept", f"what was written into {path.name} before is in {left}")
            record = Record("", found.bytes, is_left=True)
            self._know(left, field, session.runtime_env_dir, session.owner, record)

    def _know(self, path: Path, field: str, root: Path, owner: Owner, record: Record) -> None:
        state = _State.CHANGED if record.is_left else _State.PRISTINE
        self._trees[str(path)] = _Tree(field, root, owner, record.archive, record.bytes, time.time(), state)

    # use

    def are_there(self, paths: Iterable[str]) -> bool:
        """Whether all of these trees are there, in use or as they were made. Loop-safe."""
        for path in paths:
            tree = self._trees.get(path)
            if tree is None or not (tree.users or tree.state is _State.PRISTINE):
                return False
        return True

    async def settle(self, paths: Iterable[str]) -> bool:
        """:meth:`are_there`, after a look at those whose last user has left since the last look."""
        for path in paths:
            if self._is_suspect(path):
                await self._once.do(path, partial(self._look, path))
        return self.are_there(paths)

    def enter(self, session_id: str, env_digest: str, paths: Iterable[str]) -> None:
        """An env that stands on these trees has a user. Loop-safe; once for each env does."""
        user, now = (session_id, env_digest), time.time()
        for path in paths:
            tree = self._trees[path]
            tree.users.add(user)
            tree.last_used = now
            self._used.setdefault(user, set()).add(path)

    def leave(self, session_id: str, env_digest: str) -> None:
        """The env has no user any more: trees that nobody else uses are looked at in a moment."""
        user = (session_id, env_digest)
        for path in self._used.pop(user, ()):
            tree = self._trees[path]
            tree.users.discard(user)
            self._suspect(path, tree)

    def _suspect(self, path: str, tree: _Tree) -> None:
        if not tree.users and tree.state is _State.PRISTINE:
            tree.state = _State.SUSPECT
            self._spawn(self._look_later(path))

    async def _look_later(self, path: str) -> None:
        await asyncio.sleep(_PAUSE)
        if self._is_suspect(path):
            await self._once.do(path, partial(self._look, path))

    def _is_suspect(self, path: str) -> bool:
        tree = self._trees.get(path)
        return tree is not None and not tree.users and tree.state is _State.SUSPECT

    async def _look(self, path: str) -> None:
        if not self._is_suspect(path):
            return
        tree = self._trees[path]
        changed, size = await _whole(asyncio.to_thread(tree_files.has_changed, Path(path), tree.owner))
        if tree.users:  # recovered meanwhile
            return
        tree.state, tree.bytes = (_State.CHANGED if changed else _State.PRISTINE), size or tree.bytes
        if changed and tree.field == LAYERS and self._trees.pop(path, None) is not None:
            await _whole(asyncio.to_thread(tree_files.remove, Path(path), tree.owner))

    # sessions

    async def recover(self, session: Session, users: Mapping[str, Iterable[str]]) -> None:
        """Finds the trees that an earlier daemon made for this session.

        Args:
            session: one that has come, or come back.
            users: for each env that is in use, by digest, the trees on which it stands.
        """
        self._roots[session.id] = session.runtime_env_dir
        for name, found in (await asyncio.to_thread(_left, session)).items():
            for path, record in found.items():
                if str(path) not in self._trees and not self._once.running(str(path)):
                    self._know(path, name, session.runtime_env_dir, session.owner, record)
                    self._suspect(str(path), self._trees[str(path)])
        for digest, paths in users.items():
            self.enter(session.id, digest, (path for path in paths if path in self._trees))

    def forget(self, session_id: str) -> None:
        """The session has ended. Its trees stay on disk, as in stock: they may hold a job's results."""
        for session, digest in list(self._used):
            if session == session_id:
                self.leave(session, digest)
        self._roots.pop(session_id, None)
        roots = set(self._roots.values())
        self._trees = {path: tree for path, tree in self._trees.items() if tree.root in roots}

    # removal

    def shrink(self, session: Session) -> None:
        """Removes the least recently used trees that nobody uses while a field's limit is passed."""
        mine = [(path, tree) for path, tree in self._trees.items() if tree.root == session.runtime_env_dir]
        for name in _FOLDERS.keys() - {LAYERS}:
            limit = session.settings.cache_bytes.get(name, _DEFAULT_LIMIT)
            of_field = [(path, tree) for path, tree in mine if tree.field == name]
            excess = sum(tree.bytes for _, tree in of_field) - limit
            for path, tree in sorted(of_field, key=lambda item: item[1].last_used):
                if excess <= 0:
                    break
                if not tree.users:
                    excess -= tree.bytes
                    self._remove(path)

    def drop_layers(self, paths: Iterable[str]) -> None:
        """Removes those of these trees that are layers, unless somebody uses them."""
        for path in paths:
            tree = self._trees.get(path)
            if tree is not None and tree.field == LAYERS and not tree.users:
                self._remove(path)

    def _remove(self, path: str) -> None:
        self._spawn(self._remove_later(path, self._trees.pop(path).owner))

    async def _remove_later(self, path: str, owner: Owner) -> None:
        async def remove() -> bool:
            await _whole(asyncio.to_thread(tree_files.remove, Path(path), owner))
            return True

        # Somebody may be looking at it; and it stays if somebody has made it anew meanwhile.
        while path not in self._trees and not await self._once.do(path, remove):
            pass

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)


def _left(session: Session) -> dict[str, dict[Path, Record]]:
    """By field, the finished trees in a session's folder; blocking."""
    root, owner = session.runtime_env_dir, session.owner
    return {name: tree_files.records(root / folder, owner) for name, folder in _FOLDERS.items()}


async def _whole(work: Awaitable[T], stopped: threading.Event | None = None) -> T:
    """Awaits a thread to its end, also when cancelled: what follows would be in its way."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stopped is not None:
            stopped.set()
        await asyncio.wait({task})
        raise
