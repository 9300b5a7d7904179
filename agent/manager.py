"""Acquire, build, release: what every face asks, whoever the caller is.

An env of a session is *ready* once its context is known and its objects are bound to it on disk. From then
on an acquire is a few operations in memory: hold the objects, count the reference, give the hold back
(:meth:`Manager.hit`). Everything else goes the long way through :meth:`Manager.acquire`, which runs the
preparation once per session and env however many wait, retries what may pass, and remembers what will not.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from ray_envd.agent.envs import EnvState, ReadyEnv, SessionEnvs, record_of, recorded
from ray_envd.agent.errors import (
    DiskFullError,
    DrainingError,
    EnvError,
    Retry,
    SetupTimeoutError,
    UnwantedError,
    unexpected,
)
from ray_envd.agent.jobs import Jobs
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.once import Once
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.progress import Listener, Progress
from ray_envd.agent.quota import excess
from ray_envd.agent.redaction import Redactor, secrets_in_urls
from ray_envd.agent.room import disk_full
from ray_envd.agent.sessions import Session
from ray_envd.agent.setup_log import SetupLog, SetupLogWriter
from ray_envd.agent.spec import RuntimeEnvSpec, digest_of_serialized, parse, shown
from ray_envd.agent.trees import Trees
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.errors import NotFoundError, StoreError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.references import References

_log = logging.getLogger(__name__)

#: Ray's own default for config.setup_timeout_seconds.
DEFAULT_TIMEOUT = 600
#: Ray's proxy for Ray Client asks for envs and never gives them back: stock does not count it.
_UNCOUNTED_SOURCES = frozenset({"client_server"})


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a runtime env.

    Attributes:
        serialized: the runtime env, as Ray serialized it.
        timeout: seconds; -1 for none, 0 for Ray's default.
        job_id: names the set-up log.
        log_files: further files for the set-up log.
        source: who asks.
    """

    serialized: str
    timeout: int = 0
    job_id: str = ""
    log_files: tuple[str, ...] = ()
    source: str = ""

    @property
    def counted(self) -> bool:
        """Whether a success adds a reference."""
        return self.source not in _UNCOUNTED_SOURCES

    @property
    def seconds(self) -> float | None:
        """How long the caller waits; None for ever."""
        return None if self.timeout < 0 else float(self.timeout or DEFAULT_TIMEOUT)


class Manager:
    """The daemon's centre. Everything but ``start_session`` and ``end_session`` works on one event loop."""

    def __init__(
        self,
        workshop: Workshop,
        references: References,
        preparation: Preparation,
        trees: Trees,
        logs: SetupLogWriter,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workshop, self.references, self.metrics = workshop, references, metrics
        self.on_release: Callable[[], None] = lambda: None
        self.draining = False
        self._preparation, self._trees, self._logs = preparation, trees, logs
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._once = Once()
        self._jobs = Jobs()
        self._progress: dict[tuple[str, str], Progress] = {}
        self._envs: dict[str, SessionEnvs] = {}
        self._housekeeping: set[asyncio.Future[Any]] = set()

    # sessions

    async def start_session(self, session: Session) -> None:
        """Registers a session, or finds the references of one that has come back."""
        async with self._turn(session.id):
            known = await self.workshop.thread(self._begin, session)
            envs = self._envs.setdefault(session.id, self._no_envs(session))
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

    async def end_session(self, session_id: str) -> None:
        """Drops every reference of a session whose raylet is gone."""
        async with self._turn(session_id):
            envs = self._envs.pop(session_id, None)
            if envs is not None:
                # Workers of a dead raylet take a moment to notice.
                for digest in [each for each in envs.ready if self.references.count(session_id, each)]:
                    self._rest(envs, digest)
                    self._told_released(envs, digest, self.references.count(session_id, digest))
            self._trees.forget(session_id)
            dropped = await self.workshop.thread(self.references.end, session_id)
        _log.info("session %s ended, %d references dropped", session_id, dropped)
        self.on_release()

    def _of(self, session: Session) -> SessionEnvs:
        """A session's envs; of one that has just ended, none that anybody else sees."""
        return self._envs.get(session.id) or self._no_envs(session)

    def _no_envs(self, session: Session) -> SessionEnvs:
        return SessionEnvs(session.settings.failure_ttl, self._clock)

    # acquire

    def hit(self, session: Session, ask: Ask) -> str | None:
        """The context of a ready env, referenced for the caller; None if it must go the long way.

        Loop-safe and quick: this is what a warm cluster calls all day.
        """
        digest = digest_of_serialized(ask.serialized)
        envs = self._of(session)
        env = envs.ready.get(digest)
        if env is None or not self.workshop.guard.knows(env.objects, env.generations):
            return None
        if not self._trees.are_there(env.trees):
            return None
        if not self._take(session, digest, env, counted=ask.counted):
            return None
        self.metrics.requests.hits.inc()
        if envs.tell(ask.job_id, digest):
            self._tell_reuse(session, ask)
        return env.context

    async def acquire(self, session: Session, ask: Ask, listener: Listener | None = None) -> ReadyEnv:
        """The env, prepared if need be, and referenced for the caller.

        Args:
            session: who asks.
            ask: for what.
            listener: hears the preparation's steps.

        Raises:
            EnvError: it cannot be prepared, or not in time; no reference was added.
        """
        metrics, started = self.metrics.requests, time.monotonic()
        outcome = "failed"
        metrics.pending.inc()
        try:
            env = await self._acquire(session, ask, listener)
            outcome = "built" if env.built else "hit"
        except EnvError as error:
            metrics.failures.labels(error.code).inc()
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"  # who asked has gone
            raise
        finally:
            metrics.pending.dec()
            metrics.acquires.labels(outcome).inc()
            metrics.acquire_seconds.labels(outcome).observe(time.monotonic() - started)
        return env

    async def _acquire(self, session: Session, ask: Ask, listener: Listener | None) -> ReadyEnv:
        digest = digest_of_serialized(ask.serialized)
        ready = await self._still_ready(session, ask, digest)
        if ready is not None:
            return ready
        self._of(session).raise_known(digest)
        if self.draining:
            raise DrainingError("the daemon is shutting down", remedy="ask again in a moment")
        spec = self._parse(session, ask, digest)
        log = SetupLog(self._logs, session, ask.job_id, ask.log_files, spec.redactor)
        for name in spec.unknown:
            log.write(f"runtime_env field {name} is not recognized and will be ignored.", "WARNING")
        self._of(session).tell(ask.job_id, digest)
        try:
            async with (
                asyncio.timeout(ask.seconds),
                self._jobs.attended(session, ask.job_id, ask.serialized),
            ):
                env = await self._ready_env(session, spec, log, listener, counted=ask.counted)
        except TimeoutError:
            error = _timed_out(ask.seconds)
            log.write(str(error), "ERROR")
            raise error from None
        except UnwantedError as unwanted:
            log.write(str(unwanted), "WARNING")
            raise
        return env

    async def _still_ready(self, session: Session, ask: Ask, digest: str) -> ReadyEnv | None:
        """A ready env, referenced for the caller, whose objects or trees had to be looked at first."""
        envs = self._of(session)
        env = envs.ready.get(digest)
        if env is None:
            return None
        try:
            async with asyncio.timeout(ask.seconds):
                stands = await self._stand(env)
        except TimeoutError:
            raise _timed_out(ask.seconds) from None
        if not (stands and self._take(session, digest, env, counted=ask.counted)):
            return None
        if envs.tell(ask.job_id, digest):
            self._tell_reuse(session, ask)
        return replace(env, built=False)

    async def _stand(self, env: ReadyEnv) -> bool:
        """Whether all that an env's context names is there, and whole as far as can be seen."""
        store = self.workshop.store
        for key, generation in zip(env.objects, env.generations, strict=True):
            entry = store.keep(key)
            if entry is None:
                return False
            try:
                if entry.generation != generation or not await self.workshop.guard.stands(entry):
                    return False
            finally:
                store.unhold(key, entry.generation)
        return await self._trees.settle(env.trees)

    async def _ready_env(
        self,
        session: Session,
        spec: RuntimeEnvSpec,
        log: SetupLog,
        listener: Listener | None,
        *,
        counted: bool,
    ) -> ReadyEnv:
        """Waits for the env's preparation and takes a reference on the result."""
        while True:
            key = (session.id, spec.digest)
            progress = self._progress.setdefault(key, Progress())
            # A job's log gets each line once, however many of its tasks wait for the same env.
            stops = [progress.listen_once(log.event, log.paths)]
            if listener is not None:
                stops.append(progress.listen(listener))
            try:
                env = await self._once.do(key, partial(self._prepare_until_done, session, spec, progress))
            except EnvError as error:
                if progress.tell_once(log.paths):
                    log.write(str(error), "ERROR")
                raise
            finally:
                for stop in stops:
                    stop()
            # No await from here to the return: the reference must not be taken for one who has gone.
            if self._take(session, spec.digest, env, counted=counted):
                if progress.tell_once(log.paths):
                    reused = env.objects and not env.built
                    log.write(f"runtime env is {'already prepared and is reused' if reused else 'ready'}")
                return env

    def _take(self, session: Session, digest: str, env: ReadyEnv, *, counted: bool) -> bool:
        """Counts a reference on a ready env, unless something it stands on has been collected."""
        store, held, whole = self.workshop.store, [], False
        try:
            for key, generation in zip(env.objects, env.generations, strict=True):
                entry = store.hold(key)
                if entry is None:
                    break
                held.append(entry)
                if entry.generation != generation:
                    break  # built anew, elsewhere, since this env's context was made
            else:
                whole = self._trees.are_there(env.trees)
            if whole and counted:
                self.references.acquire(session.id, digest)
                self._of(session).used(digest)
                self._trees.enter(session.id, digest, env.trees)
                self.workshop.trace.told("acquire", env.objects)
        except NotFoundError:
            whole = False  # forgotten as idle, between its preparation and now
        finally:
            for entry in held:
                store.unhold(entry.key, entry.generation)
        if not whole:
            self._of(session).ready.pop(digest, None)
        return whole

    # preparation

    def _parse(self, session: Session, ask: Ask, digest: str) -> RuntimeEnvSpec:
        try:
            return parse(
                ask.serialized,
                plugins_configured=session.settings.plugins,
                secrets=session.secrets,
            )
        except EnvError as error:
            self._of(session).fail(digest, shown(ask.serialized), error, self._clock())
            redact = Redactor(session.secrets | secrets_in_urls(ask.serialized))
            log = SetupLog(self._logs, session, ask.job_id, ask.log_files, redact)
            log.write(str(error), "ERROR")
            raise

    async def _prepare_until_done(
        self, session: Session, spec: RuntimeEnvSpec, progress: Progress
    ) -> ReadyEnv:
        started = self._clock()
        attempt = 1
        try:
            while True:
                try:
                    return await self._prepare(session, spec, progress, started)
                except EnvError as error:
                    if error.retry is not Retry.TRANSIENT or attempt >= session.settings.retry_times:
                        self._of(session).fail(spec.digest, spec.redacted, error, started)
                        raise
                    pause = session.settings.retry_interval * 2 ** (attempt - 1)
                    progress.report("runtime_env", "attempt failed", f"{error.cause}; again in {pause:g} s")
                    await asyncio.sleep(pause)
                    if isinstance(error, DiskFullError):
                        # Not before there is room again: it would only fail once more.
                        await self.workshop.space.disk_again(partial(progress.report, "runtime_env"))
                    attempt += 1
                except Exception as bug:  # noqa: BLE001 - logged; the raylet gets a reply
                    # Whatever it is, the raylet gets a reply, and the traceback stays here.
                    _log.exception("preparing a runtime env failed unexpectedly")
                    raise unexpected(bug) from None
        finally:
            self._progress.pop((session.id, spec.digest), None)

    async def _prepare(
        self, session: Session, spec: RuntimeEnvSpec, progress: Progress, started: float
    ) -> ReadyEnv:
        try:
            prepared = await self._preparation.run(session, spec, progress)
        except OSError as error:
            raise disk_full(error) or error from None
        try:
            creation_ms = round((self._clock() - started) * 1000)
            env = ReadyEnv(
                context=prepared.context,
                objects=prepared.objects,
                fields=prepared.fields,
                generations=tuple(prepared.bench.generation(key) for key in prepared.objects),
                trees=prepared.trees,
                runtime_env=spec.redacted,
                creation_ms=creation_ms,
                built=prepared.built,
            )
            await self.workshop.thread(
                self.references.bind, session.id, spec.digest, env.objects, record_of(env)
            )
        except NotFoundError:
            raise DrainingError("the session has ended") from None
        except OSError as error:
            raise disk_full(error) or error from None
        finally:
            prepared.close()
        self._of(session).add(spec.digest, env)
        self._note_idle(session, spec.digest)  # it stays so if nobody counts a reference
        return env

    # release and report

    def release(self, session: Session, serialized: str, source: str) -> None:
        """Gives back one reference.

        Raises:
            NotReferencedError: there is none.
        """
        if source in _UNCOUNTED_SOURCES:
            return
        digest = digest_of_serialized(serialized)
        if self.references.count(session.id, digest) == 1:
            self._rest(self._of(session), digest)
        left = self.references.release(session.id, digest)
        self._told_released(self._of(session), digest)
        if left == 0:
            self._trees.leave(session.id, digest)
            self._note_idle(session, digest)
            self._trees.shrink(session)
            if session.settings.cache_bytes:
                self._evict_excess(session)
            self.on_release()

    def _told_released(self, envs: SessionEnvs, digest: str, number: int = 1) -> None:
        env = envs.ready.get(digest)
        self.workshop.trace.told("release", () if env is None else env.objects, number)

    def _rest(self, envs: SessionEnvs, digest: str) -> None:
        """Notes that what an env stands on was in use until now."""
        env = envs.ready.get(digest)
        for key in () if env is None else env.objects:
            self.workshop.store.rest(key)

    def _note_idle(self, session: Session, digest: str) -> None:
        """Forgets the env that has been without references the longest, if there are too many such."""
        if self.references.count(session.id, digest):
            return
        forgotten = self._of(session).unused(digest)
        if forgotten is not None:
            oldest, env = forgotten
            self._trees.drop_layers(() if env is None else env.trees)
            self._later(self._preparation.forget(session, oldest))
            self._later(self.workshop.thread(self.references.unbind, session.id, oldest))

    def _later(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._housekeeping.add(task)
        task.add_done_callback(self._housekeeping.discard)

    def _evict_excess(self, session: Session) -> None:
        """Holds the session to its own limits of unreferenced objects, where its raylet names any."""
        ready = {session_id: envs.ready for session_id, envs in self._envs.items()}
        for key in excess(session, ready, self.workshop.store, self.references.is_referenced):
            self._later(self._evict(key))

    async def _evict(self, key: ObjectKey) -> None:
        try:
            freed = await self.workshop.thread(self.workshop.store.evict, key, self.references.is_referenced)
        except StoreError as error:
            _log.info("not collected: %s", error)
        else:
            self.metrics.store.evicted(key.kind, "session_limit", freed)
            self.workshop.trace.told("evict", [key])

    def info(self, session: Session) -> list[EnvState]:
        """The envs of a session: those in use, those ready, those that failed."""
        return self._of(session).states(partial(self.references.count, session.id))

    async def finished(self) -> None:
        """Waits until no preparation is under way."""
        await self._once.finished()

    async def cancel_all(self) -> int:
        """Ends every preparation under way; those who wait get DrainingError."""
        return await self._once.cancel_all()

    @property
    def busy(self) -> int:
        """How many preparations are under way."""
        return len(self._once)

    def _tell_reuse(self, session: Session, ask: Ask) -> None:
        try:
            redactor = parse(ask.serialized, secrets=session.secrets).redactor
        except EnvError:
            return
        log = SetupLog(self._logs, session, ask.job_id, ask.log_files, redactor)
        log.write("runtime env is already prepared and is reused")


def _timed_out(seconds: float | None) -> SetupTimeoutError:
    return SetupTimeoutError(
        f"Failed to install runtime_env within the timeout of {seconds:g} seconds",
        remedy="increase it in the runtime env, e.g. "
        'runtime_env={"config": {"setup_timeout_seconds": 1800}, ...}; '
        f"the default is {DEFAULT_TIMEOUT} seconds",
    )
