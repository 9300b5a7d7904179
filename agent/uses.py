"""Who uses which env: the ready envs of every session, and the references on them.

An env of a session is *ready* once its context is known and its objects are bound to it on disk. A reference
is counted on disk and in memory, for the objects and for the trees that the env stands on; whoever takes
one finds all of them there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from ray_envd.agent.envs import EnvState, ReadyEnv, SessionEnvs, record_of, recorded
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.quota import excess
from ray_envd.agent.sessions import Session
from ray_envd.agent.spec import digest_of_serialized
from ray_envd.agent.trees import Trees
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import NotFoundError, StoreError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.references import References

_log = logging.getLogger(__name__)

#: Ray's proxy for Ray Client asks for envs and never gives them back: stock does not count it.
_UNCOUNTED_SOURCES = frozenset({"client_server"})


def is_counted(source: str) -> bool:
    """Whether this kind of caller has references: a success adds one, a release takes one."""
    return source not in _UNCOUNTED_SOURCES


def _nothing() -> None:
    """Where nothing is counted."""


class Uses:
    """Envs and references of all sessions. On one event loop, but for what runs in threads.

    Attributes:
        references: the counts, on disk.
        on_release: called after an env has lost its last reference, and after a session's end.
        clock: seconds.
    """

    def __init__(
        self,
        workshop: Workshop,
        references: References,
        preparation: Preparation,
        trees: Trees,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.references, self.clock = references, clock
        self.on_release: Callable[[], None] = lambda: None
        self._workshop, self._preparation, self._trees = workshop, preparation, trees
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._envs: dict[str, SessionEnvs] = {}
        self._housekeeping: set[asyncio.Future[Any]] = set()

    # sessions

    async def start(self, session: Session) -> None:
        """Registers a session, or finds the references of one that has come back."""
        async with self._turn(session.id):
            known = await self._workshop.thread(self._begin, session)
            envs = self._envs.setdefault(session.id, self._none_of(session))
            for digest, env in known.items():
                if digest not in envs.ready:
                    envs.add(digest, env)
                    self._note_idle(session, digest)
            ready = envs.ready.items()
            used = {each: env.trees for each, env in ready if self.references.count(session.id, each)}
            await self._trees.recover(session, used)

    def _turn(self, session_id: str) -> asyncio.Lock:
        """Beginnings and ends of one session come one after the other, as they were asked for."""
        return self._turns.setdefault(session_id, asyncio.Lock())

    def _begin(self, session: Session) -> dict[str, ReadyEnv]:
        """Blocking; of the envs that an earlier daemon left, those that can be given at once."""
        self.references.start(session.id, session.facts())
        left = {
            record.env_digest: recorded(record.objects, record.summary)
            for record in self.references.envs(session.id)
        }
        return {digest: env for digest, env in left.items() if env is not None}

    async def end(self, session_id: str) -> None:
        """Drops every reference of a session whose raylet is gone."""
        async with self._turn(session_id):
            envs = self._envs.pop(session_id, None)
            if envs is not None:
                # Workers of a dead raylet take a moment to notice.
                for digest in [each for each in envs.ready if self.references.count(session_id, each)]:
                    self._rest(envs, digest)
                    self._told_released(envs, digest, self.references.count(session_id, digest))
            self._trees.forget(session_id)
            dropped = await self._workshop.thread(self.references.end, session_id)
        _log.info("session %s ended, %d references dropped", session_id, dropped)
        self.on_release()

    def of(self, session: Session) -> SessionEnvs:
        """A session's envs; of one that has just ended, none that anybody else sees."""
        return self._envs.get(session.id) or self._none_of(session)

    def _none_of(self, session: Session) -> SessionEnvs:
        return SessionEnvs(session.settings.failure_ttl, self.clock)

    # references

    def at_once(self, session: Session, digest: str) -> ReadyEnv | None:
        """A ready env whose objects and trees need no look before they are handed out. Loop-safe."""
        env = self.of(session).ready.get(digest)
        if env is None or not self._workshop.guard.knows(env.objects, env.generations):
            return None
        return env if self._trees.are_there(env.trees) else None

    async def stands(self, env: ReadyEnv) -> bool:
        """Whether all that an env's context names is there, and whole as far as can be seen."""
        store = self._workshop.store
        for key, generation in zip(env.objects, env.generations, strict=True):
            entry = store.keep(key)
            if entry is None:
                return False
            try:
                if entry.generation != generation or not await self._workshop.guard.stands(entry):
                    return False
            finally:
                store.unhold(key, entry.generation)
        return await self._trees.settle(env.trees)

    async def bind(self, session: Session, digest: str, env: ReadyEnv) -> None:
        """Makes a prepared env ready; its objects must be held.

        Raises:
            NotFoundError: the session has ended.
            OSError: the disk.
        """
        record = record_of(env)
        await self._workshop.thread(self.references.bind, session.id, digest, env.objects, record)
        self.of(session).add(digest, env)
        self._note_idle(session, digest)  # it stays so if nobody counts a reference

    def take(self, session: Session, digest: str, env: ReadyEnv, *, counted: bool) -> bool:
        """Counts a reference on a ready env, unless something it stands on has been collected.

        Or was built anew, elsewhere, since this env's context was made.
        """
        envs = self.of(session)
        count = partial(self.references.acquire, session.id, digest) if counted else _nothing
        try:
            whole = self._trees.are_there(env.trees) and self._workshop.store.use(
                env.objects, env.generations, count
            )
        except NotFoundError:
            whole = False  # forgotten as idle, between its preparation and now
        if not whole:
            envs.ready.pop(digest, None)
        elif counted:
            envs.used(digest)
            self._trees.enter(session.id, digest, env.trees)
            self._workshop.trace.told("acquire", env.objects)
        return whole

    def release(self, session: Session, serialized: str, source: str) -> None:
        """Gives back one reference.

        Raises:
            NotReferencedError: there is none.
        """
        if not is_counted(source):
            return
        digest = digest_of_serialized(serialized)
        if self.references.count(session.id, digest) == 1:
            self._rest(self.of(session), digest)
        left = self.references.release(session.id, digest)
        self._told_released(self.of(session), digest)
        if left == 0:
            self._trees.leave(session.id, digest)
            self._note_idle(session, digest)
            self._trees.shrink(session)
            if session.settings.cache_bytes:
                self._evict_excess(session)
            self.on_release()

    def _told_released(self, envs: SessionEnvs, digest: str, number: int = 1) -> None:
        env = envs.ready.get(digest)
        self._workshop.trace.told("release", () if env is None else env.objects, number)

    def _rest(self, envs: SessionEnvs, digest: str) -> None:
        """Notes that what an env stands on was in use until now."""
        env = envs.ready.get(digest)
        for key in () if env is None else env.objects:
            self._workshop.store.rest(key)

    def _note_idle(self, session: Session, digest: str) -> None:
        """Forgets the env that has been without references the longest, if there are too many such."""
        if self.references.count(session.id, digest):
            return
        forgotten = self.of(session).unused(digest)
        if forgotten is not None:
            oldest, env = forgotten
            self._trees.drop_layers(() if env is None else env.trees)
            self._later(self._preparation.forget(session, oldest))
            self._later(self._workshop.thread(self.references.unbind, session.id, oldest))

    def _later(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._housekeeping.add(task)
        task.add_done_callback(self._housekeeping.discard)

    def _evict_excess(self, session: Session) -> None:
        """Holds the session to its own limits of unreferenced objects, where its raylet names any."""
        ready = {session_id: envs.ready for session_id, envs in self._envs.items()}
        for key in excess(session, ready, self._workshop.store, self.references.is_referenced):
            self._later(self._evict(key))

    async def _evict(self, key: ObjectKey) -> None:
        evict = self._workshop.store.evict
        try:
            freed = await self._workshop.thread(evict, key, self.references.is_referenced)
        except StoreError as error:
            _log.info("not collected: %s", error)
        else:
            self._workshop.metrics.store.evicted(key.kind, "session_limit", freed)
            self._workshop.trace.told("evict", [key])

    def states(self, session: Session) -> list[EnvState]:
        """The envs of a session: those in use, those ready, those that failed."""
        return self.of(session).states(partial(self.references.count, session.id))
