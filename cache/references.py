"""Which session uses which runtime env, and so which objects must stay.

References are counted per session and env. A count is exact whenever the daemon is killed: it is one store to
mapped memory (counts.py). What an env stands on is written before its first count, and while its count is not
zero that only grows: no object that a worker may stand on is let go. A session's references end with it.

Methods marked loop-safe touch memory only; the others block and belong in a thread.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_envd.cache.counts import Counts
from ray_envd.cache.env_files import Bound, check_env
from ray_envd.cache.errors import CorruptError, NotFoundError, NotReferencedError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.session_files import EnvRecord, SessionFiles, SessionRecord, check_session

__all__ = ["EnvRecord", "References", "SessionRecord"]

_log = logging.getLogger(__name__)


@dataclass
class _Session:
    files: SessionFiles
    counts: Counts
    facts: Mapping[str, Any]
    started: float
    envs: dict[str, Bound] = field(default_factory=dict)


class References:
    """All sessions' references; one instance per folder, guarded by the store's lock file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, _Session] = {}
        # How many (session, env) pairs with a count above zero stand on each object.
        self._users: dict[ObjectKey, int] = {}
        self._total = 0
        # Taken in this order. The first is held over file work, the second for operations in memory only.
        self._files_lock = threading.Lock()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> "References":
        """Reads every session in the folder, with its counts; removes what is unfinished or damaged."""
        references = cls(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(folder.iterdir()):
            references._load(path)
        return references

    def _load(self, path: Path) -> None:
        files = SessionFiles(path)
        try:
            session_id = check_session(path.name)
            facts, started, counts, envs = files.read()
        except (CorruptError, ValueError, OSError) as error:
            _log.warning("the session %s is dropped: %s", path.name, error)
            _remove(files)
            return
        for digest in counts.digests:
            if digest not in envs:
                _log.warning("session %s: nothing is known of env %s, it is dropped", path.name, digest)
                counts.forget(digest)
        for digest, bound in envs.items():
            if counts.is_full and digest not in counts:
                counts.extend()
                counts.remap()
            counts.add(digest)
            self._total += counts[digest]
            if counts[digest]:
                self._use(bound.objects)
        self._sessions[session_id] = _Session(files, counts, facts, started, envs)

    def flush(self) -> None:
        """Makes the next start quick, where much has changed; every few seconds."""
        for session_id in list(self._sessions):
            with self._files_lock:  # for one session at a time: others wait to bind an env
                if (session := self._sessions.get(session_id)) is not None:
                    _copy(session, last=False)

    def close(self) -> None:
        """Lets go of the files. Counts stay."""
        with self._files_lock, self._lock:
            for session in self._sessions.values():
                _copy(session, last=True)
                session.counts.close()
            self._sessions.clear()

    # sessions

    def start(self, session_id: str, facts: Mapping[str, Any]) -> None:
        """Begins a session, or goes on with one that is there: its counts stay, its facts are replaced.

        Raises:
            ValueError: the id is not ``[A-Za-z0-9_.-]{1,128}``.
        """
        path = self._folder / check_session(session_id)
        with self._files_lock:
            known = self._sessions.get(session_id)
            if known is not None:
                known.files.write_facts(facts, known.started)
                known.facts = facts
                return
            files, counts = SessionFiles.create(path)
            started = time.time()
            files.write_facts(facts, started)
            with self._lock:
                self._sessions[session_id] = _Session(files, counts, facts, started)

    def end(self, session_id: str) -> int:
        """Drops a session and its references; returns how many. An unknown session has none."""
        with self._files_lock:
            with self._lock:
                session = self._sessions.pop(session_id, None)
                if session is None:
                    return 0
                dropped = 0
                for digest, bound in session.envs.items():
                    if count := session.counts[digest]:
                        dropped += count
                        self._unuse(bound.objects)
                self._total -= dropped
                session.counts.close()
            _remove(session.files)
        return dropped

    def sessions(self) -> list[SessionRecord]:
        """Every session. Loop-safe."""
        with self._lock:
            return [
                SessionRecord(
                    session_id=name,
                    facts=session.facts,
                    started=session.started,
                    envs=len(session.envs),
                    references=sum(session.counts[digest] for digest in session.envs),
                )
                for name, session in self._sessions.items()
            ]

    # envs

    def bind(
        self, session_id: str, env_digest: str, objects: Sequence[ObjectKey], summary: Mapping[str, Any]
    ) -> None:
        """Says what an env stands on, before it is first acquired; durable against a kill.

        An env that is referenced keeps the objects it had: new ones are added to them, since those who hold
        it stand on the old and those who come next on the new. Without references the new replace the old.

        Raises:
            NotFoundError: no such session.
            ValueError: not an env digest.
        """
        check_env(env_digest)
        with self._files_lock:
            session = self._session(session_id)
            old = session.envs.get(env_digest)
            new = Bound(tuple(dict.fromkeys(objects)), old.created if old else time.time())
            # Both on disk first: whichever of the two counts at the instant of a kill, it is covered.
            both = replace(new, objects=tuple(dict.fromkeys([*(old.objects if old else ()), *new.objects])))
            session.files.envs.write(env_digest, both, summary)
            grow = session.counts.is_full and env_digest not in session.counts
            if grow:
                session.counts.extend()
            with self._lock:
                if grow:
                    session.counts.remap()
                session.counts.add(env_digest)
                in_use = session.counts[env_digest] > 0
                session.envs[env_digest] = both if in_use else new
                if in_use and old is not None:
                    self._use(set(both.objects) - set(old.objects))
            if not in_use and both != new:
                session.files.envs.write(env_digest, new, summary)

    def unbind(self, session_id: str, env_digest: str) -> bool:
        """Forgets an env that has no references; returns whether it is forgotten.

        An env that has been acquired meanwhile stays.
        """
        with self._files_lock:
            with self._lock:
                session = self._sessions.get(session_id)
                if session is None or env_digest not in session.envs or session.counts[env_digest]:
                    return False
                del session.envs[env_digest]
                session.counts.forget(env_digest)
            session.files.envs.remove(env_digest)
        return True

    def envs(self, session_id: str) -> list[EnvRecord]:
        """What a session has bound; of an unknown session nothing.

        Raises:
            OSError: the disk.
        """
        with self._files_lock:
            session = self._sessions.get(session_id)
            if session is None:
                return []
            summaries = session.files.envs.summaries()
            with self._lock:
                return [
                    EnvRecord(
                        digest,
                        bound.objects,
                        summaries.get(digest, {}),
                        bound.created,
                        session.counts[digest],
                    )
                    for digest, bound in session.envs.items()
                ]

    # counts

    def acquire(self, session_id: str, env_digest: str) -> int:
        """Adds a reference to a bound env; returns how many it has now. Loop-safe.

        The caller holds the env's objects, so that they are there until the reference protects them.

        Raises:
            NotFoundError: no such session, or the env was never bound in it.
        """
        with self._lock:
            session = self._session(session_id)
            bound = session.envs.get(env_digest)
            if bound is None:
                raise NotFoundError(f"session {session_id} has bound no env {env_digest}")
            count = session.counts[env_digest] + 1
            session.counts[env_digest] = count
            self._total += 1
            if count == 1:
                self._use(bound.objects)
            return count

    def release(self, session_id: str, env_digest: str) -> int:
        """Takes a reference from an env; returns how many are left. Loop-safe.

        Raises:
            NotReferencedError: it has none.
        """
        with self._lock:
            session = self._sessions.get(session_id)
            count = session.counts[env_digest] if session else 0
            if session is None or not count:
                raise NotReferencedError(f"session {session_id} has no reference to env {env_digest}")
            session.counts[env_digest] = count - 1
            self._total -= 1
            if count == 1:
                self._unuse(session.envs[env_digest].objects)
            return count - 1

    def count(self, session_id: str, env_digest: str) -> int:
        """How many references an env has in a session. Loop-safe."""
        with self._lock:
            session = self._sessions.get(session_id)
            return session.counts[env_digest] if session else 0

    def is_referenced(self, key: ObjectKey) -> bool:
        """Whether any session's env with a reference stands on this object. Loop-safe."""
        return key in self._users

    def object_count(self, key: ObjectKey) -> int:
        """How many envs of sessions, referenced themselves, stand on this object. Loop-safe."""
        return self._users.get(key, 0)

    def total(self) -> int:
        """References of all sessions. Loop-safe."""
        return self._total

    # helpers; the lock is held

    def _session(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFoundError(f"no such session: {session_id}")
        return session

    def _use(self, objects: "Sequence[ObjectKey] | set[ObjectKey]") -> None:
        for key in objects:
            self._users[key] = self._users.get(key, 0) + 1

    def _unuse(self, objects: Sequence[ObjectKey]) -> None:
        for key in objects:
            left = self._users[key] - 1
            if left:
                self._users[key] = left
            else:
                del self._users[key]


def _copy(session: _Session, *, last: bool) -> None:
    try:
        session.files.envs.copy(session.envs, last=last)
    except OSError as error:
        _log.info("what a session's envs stand on could not be copied, which costs time only: %s", error)


def _remove(files: SessionFiles) -> None:
    try:
        files.remove()
    except OSError as error:
        # Without session.json the rest is removed at the next start.
        _log.warning("the folder of a session that has ended cannot be removed: %s", error)
