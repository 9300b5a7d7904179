"""Preparations until they are done: one per session and env however many wait, tried again if it may help."""

import asyncio
import logging
from functools import partial

from ray_envd.agent.envs import ReadyEnv
from ray_envd.agent.errors import DiskFullError, DrainingError, EnvError, Retry, unexpected
from ray_envd.agent.once import Once
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.progress import Progress
from ray_envd.agent.room import disk_full
from ray_envd.agent.sessions import Session
from ray_envd.agent.space import Space
from ray_envd.agent.spec import RuntimeEnvSpec
from ray_envd.agent.uses import Uses
from ray_envd.cache.errors import NotFoundError

_log = logging.getLogger(__name__)


class Attempts:
    """The preparations under way. Use from one event loop.

    Attributes:
        runs: as runs, by session and env.
    """

    def __init__(self, preparation: Preparation, uses: Uses, space: Space) -> None:
        self.runs = Once()
        self._preparation, self._uses, self._space = preparation, uses, space
        self._progress: dict[tuple[str, str], Progress] = {}

    def progress(self, session: Session, digest: str) -> Progress:
        """What the env's preparation under way tells, or the next one will."""
        return self._progress.setdefault((session.id, digest), Progress())

    async def prepare(self, session: Session, spec: RuntimeEnvSpec, progress: Progress) -> ReadyEnv:
        """The env made ready, by the preparation under way or a new one; nobody has a reference yet.

        Args:
            session: whose env.
            spec: parsed.
            progress: of this env; a new preparation tells it its steps.

        Raises:
            EnvError: it failed for good, or too often.
        """
        key = (session.id, spec.digest)
        return await self.runs.do(key, partial(self._until_done, session, spec, progress))

    async def _until_done(self, session: Session, spec: RuntimeEnvSpec, progress: Progress) -> ReadyEnv:
        started, attempt = self._uses.clock(), 1
        try:
            while True:
                try:
                    return await self._attempt(session, spec, progress, started)
                except EnvError as error:
                    if error.retry is not Retry.TRANSIENT or attempt >= session.settings.retry_times:
                        self._uses.of(session).fail(spec.digest, spec.redacted, error, started)
                        raise
                    await self._pause(session, error, attempt, progress)
                    attempt += 1
                except Exception as bug:  # noqa: BLE001 - logged; the raylet gets a reply
                    # Whatever it is, the raylet gets a reply, and the traceback stays here.
                    _log.exception("preparing a runtime env failed unexpectedly")
                    raise unexpected(bug) from None
        finally:
            self._progress.pop((session.id, spec.digest), None)

    async def _pause(self, session: Session, error: EnvError, attempt: int, progress: Progress) -> None:
        """Waits until another attempt may go better."""
        pause = session.settings.retry_interval * 2 ** (attempt - 1)
        progress.report("runtime_env", "attempt failed", f"{error.cause}; again in {pause:g} s")
        await asyncio.sleep(pause)
        if isinstance(error, DiskFullError):
            # Not before there is room again: it would only fail once more.
            await self._space.disk_again(partial(progress.report, "runtime_env"))

    async def _attempt(
        self, session: Session, spec: RuntimeEnvSpec, progress: Progress, started: float
    ) -> ReadyEnv:
        try:
            prepared = await self._preparation.run(session, spec, progress)
        except OSError as error:
            raise disk_full(error) or error from None
        try:
            env = ReadyEnv(
                context=prepared.context,
                objects=prepared.objects,
                fields=prepared.fields,
                generations=tuple(prepared.bench.generation(key) for key in prepared.objects),
                trees=prepared.trees,
                runtime_env=spec.redacted,
                creation_ms=round((self._uses.clock() - started) * 1000),
                built=prepared.built,
            )
            await self._uses.bind(session, spec.digest, env)
        except NotFoundError:
            raise DrainingError("the session has ended") from None
        except OSError as error:
            raise disk_full(error) or error from None
        finally:
            prepared.close()
        return env
