"""An env is asked for: what every face calls, whoever the caller is.

Of an env that is ready an acquire is a few operations in memory: hold the objects, count the reference, give
the hold back (:meth:`Manager.hit`). Everything else goes the long way through :meth:`Manager.acquire`, which
waits for the preparation; each caller has a deadline and a set-up log of his own.
"""

import asyncio
import time
from dataclasses import dataclass, field, replace

from ray_envd.agent.attempts import Attempts
from ray_envd.agent.envs import ReadyEnv
from ray_envd.agent.errors import DrainingError, EnvError, SetupTimeoutError, UnwantedError
from ray_envd.agent.jobs import Jobs
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.progress import Listener
from ray_envd.agent.redaction import Redactor, secrets_in_urls
from ray_envd.agent.sessions import Session
from ray_envd.agent.setup_log import SetupLog, SetupLogWriter
from ray_envd.agent.spec import RuntimeEnvSpec, digest_of_serialized, parse, shown
from ray_envd.agent.trees import Trees
from ray_envd.agent.uses import Uses, is_counted
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.references import References

#: Ray's own default for config.setup_timeout_seconds.
DEFAULT_TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a runtime env.

    Attributes:
        serialized: the runtime env, as Ray serialized it.
        timeout: seconds; -1 for none, 0 for Ray's default.
        job_id: names the set-up log.
        log_files: further files for the set-up log.
        source: who asks.
        digest: of the runtime env; made from it.
    """

    serialized: str
    timeout: int = 0
    job_id: str = ""
    log_files: tuple[str, ...] = ()
    source: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of_serialized(self.serialized))

    @property
    def counted(self) -> bool:
        """Whether a success adds a reference."""
        return is_counted(self.source)

    @property
    def seconds(self) -> float | None:
        """How long the caller waits; None for ever."""
        return None if self.timeout < 0 else float(self.timeout or DEFAULT_TIMEOUT)


class Manager:
    """The daemon's centre. On one event loop.

    Attributes:
        workshop: where objects are made.
        metrics: of the daemon.
        uses: sessions, their ready envs and the references on them.
        attempts: the preparations under way.
        draining: nothing new is prepared any more.
    """

    def __init__(
        self,
        workshop: Workshop,
        references: References,
        preparation: Preparation,
        trees: Trees,
        logs: SetupLogWriter,
        metrics: Metrics,
    ) -> None:
        self.workshop, self.metrics = workshop, metrics
        self.uses = Uses(workshop, references, preparation, trees)
        self.attempts = Attempts(preparation, self.uses, workshop.space)
        self.draining = False
        self._logs, self._jobs = logs, Jobs()

    def hit(self, session: Session, ask: Ask) -> str | None:
        """The context of a ready env, referenced for the caller; None if it must go the long way.

        Loop-safe and quick: this is what a warm cluster calls all day.
        """
        env = self.uses.at_once(session, ask.digest)
        if env is None or not self.uses.take(session, ask.digest, env, counted=ask.counted):
            return None
        self.metrics.requests.hits.inc()
        if self.uses.of(session).tell(ask.job_id, ask.digest):
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
        digest = ask.digest
        ready = await self._still_ready(session, ask, digest)
        if ready is not None:
            return ready
        self.uses.of(session).raise_known(digest)
        if self.draining:
            raise DrainingError("the daemon is shutting down", remedy="ask again in a moment")
        spec = self._parse(session, ask, digest)
        log = SetupLog(self._logs, session, ask.job_id, ask.log_files, spec.redactor)
        for name in spec.unknown:
            log.write(f"runtime_env field {name} is not recognized and will be ignored.", "WARNING")
        self.uses.of(session).tell(ask.job_id, digest)
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
        envs = self.uses.of(session)
        env = envs.ready.get(digest)
        if env is None:
            return None
        try:
            async with asyncio.timeout(ask.seconds):
                stands = await self.uses.stands(env)
        except TimeoutError:
            raise _timed_out(ask.seconds) from None
        if not (stands and self.uses.take(session, digest, env, counted=ask.counted)):
            return None
        if envs.tell(ask.job_id, digest):
            self._tell_reuse(session, ask)
        return replace(env, built=False)

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
            progress = self.attempts.progress(session, spec.digest)
            # A job's log gets each line once, however many of its tasks wait for the same env.
            stops = [progress.listen_once(log.event, log.paths)]
            if listener is not None:
                stops.append(progress.listen(listener))
            try:
                env = await self.attempts.prepare(session, spec, progress)
            except EnvError as error:
                if progress.tell_once(log.paths):
                    log.write(str(error), "ERROR")
                raise
            finally:
                for stop in stops:
                    stop()
            # No await from here to the return: the reference must not be taken for one who has gone.
            if self.uses.take(session, spec.digest, env, counted=counted):
                if progress.tell_once(log.paths):
                    reused = env.objects and not env.built
                    log.write(f"runtime env is {'already prepared and is reused' if reused else 'ready'}")
                return env

    def _parse(self, session: Session, ask: Ask, digest: str) -> RuntimeEnvSpec:
        try:
            return parse(
                ask.serialized,
                plugins_configured=session.settings.plugins,
                secrets=session.secrets,
            )
        except EnvError as error:
            self.uses.of(session).fail(digest, shown(ask.serialized), error, self.uses.clock())
            redact = Redactor(session.secrets | secrets_in_urls(ask.serialized))
            log = SetupLog(self._logs, session, ask.job_id, ask.log_files, redact)
            log.write(str(error), "ERROR")
            raise

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
