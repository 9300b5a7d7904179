"""Ends the waiting of those whom nobody in the cluster waits for any more.

A raylet asks for a runtime env and waits; it does not tell that the task was cancelled, that the actor was
killed, or that the job has ended meanwhile, and keeps its request open until it is answered. The cluster's
control store (GCS) knows. So while a request of a job waits for longer than a moment, its daemon asks:

- each second, whether the job has ended, with all of its detached actors;
- now and then, whether any task or actor of the job wants this env. Tasks reach the GCS a second after they
  were submitted, and a refusal fails tasks. So an env is given up only if at least one that wanted it was
  cancelled or killed, if no other wants it, and if both still hold at another look some seconds later.

Whatever the GCS does not know for certain changes nothing.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray_envd.agent.errors import EnvError, UnwantedError
from ray_envd.agent.fetch.gcs_state import EnvUse, GcsState
from ray_envd.agent.packages import gcs_endpoint
from ray_envd.agent.sessions import Session

_log = logging.getLogger(__name__)

_JOB_EVERY = 1.0  # seconds
_USE_EVERY = 2.0  # seconds between two looks, and more than Ray takes to report a task
_USE_AT_MOST = 30.0  # seconds between two looks where they cost much, or led to nothing
_SHARE = 20  # a look takes at most one part in so many of the time
_SKEW = 60.0  # seconds by which clocks of two nodes may differ
_JOB_ID_DIGITS = 8


class Cluster(Protocol):
    """What is asked: :class:`GcsState`, inside of ``async with``."""

    async def is_over(self, job_id: str) -> bool:
        """See there."""

    async def env_use(self, job_id: str) -> EnvUse | None:
        """See there."""


@dataclass(eq=False)
class _Waiter:
    """A request under way."""

    job_id: str
    env: str
    task: asyncio.Task[Any]
    since: float = field(default_factory=time.time)
    given_up: float | None = None  # when that was seen first, on the monotonic clock
    verdict: UnwantedError | None = None

    def end(self, verdict: UnwantedError) -> None:
        """Ends the waiting, once."""
        if self.verdict is None:
            self.verdict = verdict
            self.task.cancel()

    def judge(self, use: EnvUse | None) -> None:
        """Draws the conclusion of one look."""
        given_up = 0.0 if use is None or self.env in use.wanted else use.given_up.get(self.env, 0.0)
        if given_up < self.since - _SKEW:
            self.given_up = None
        elif self.given_up is None:
            self.given_up = time.monotonic()
        elif time.monotonic() - self.given_up >= _USE_EVERY:
            self.end(UnwantedError("all tasks and actors of the job that wanted it were cancelled or killed"))


class Jobs:
    """Watches the jobs of all sessions, each as long as requests of it wait. Use from one event loop."""

    def __init__(self, connect: Callable[[Session], Any] | None = None) -> None:
        """``connect`` gives an async context manager with a :class:`Cluster`; None: the session's GCS."""
        self._connect = connect or _gcs_of
        self._waiters: dict[str, set[_Waiter]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._mute: set[str] = set()  # sessions whose GCS does not answer such questions

    @asynccontextmanager
    async def attended(self, session: Session, job_id: str, env: str) -> AsyncIterator[None]:
        """Runs the block for as long as the job, and a task or an actor of it, may want the env.

        Raises:
            UnwantedError: they do not any more.
        """
        task = asyncio.current_task()
        if task is None or not session.gcs_address or not _is_job_id(job_id):
            yield
            return
        waiter = _Waiter(job_id, env, task)
        self._add(session, waiter)
        try:
            yield
        except asyncio.CancelledError:
            if waiter.verdict is None or task.uncancel():
                raise
            raise waiter.verdict from None
        finally:
            self._remove(session.id, waiter)

    def _remove(self, session_id: str, waiter: _Waiter) -> None:
        waiters = self._waiters[session_id]
        waiters.discard(waiter)
        if not waiters:
            del self._waiters[session_id]

    def _add(self, session: Session, waiter: _Waiter) -> None:
        self._waiters.setdefault(session.id, set()).add(waiter)
        self._ensure_watched(session)

    def _ensure_watched(self, session: Session) -> None:
        if session.id in self._watchers or session.id in self._mute or session.id not in self._waiters:
            return
        watcher = asyncio.create_task(self._watch(session), name="watch jobs")
        self._watchers[session.id] = watcher
        watcher.add_done_callback(lambda _: self._watched(session))

    def _watched(self, session: Session) -> None:
        del self._watchers[session.id]
        self._ensure_watched(session)  # of one who came as the watcher left

    async def _watch(self, session: Session) -> None:
        # Most requests are answered before the GCS is asked the first time.
        await asyncio.sleep(_JOB_EVERY)
        while waiters := self._waiters.get(session.id):
            try:
                async with self._connect(session) as cluster:
                    await self._look_again_and_again(cluster, waiters)
            except NotImplementedError as error:
                _log.warning("the GCS does not tell about jobs: %s", error)
                self._mute.add(session.id)
                return
            except EnvError as error:
                _log.warning("the GCS cannot be asked about jobs: %s", error)
                self._mute.add(session.id)
                return

    async def _look_again_and_again(self, cluster: Cluster, waiters: set[_Waiter]) -> None:
        pause, due = _USE_EVERY, time.monotonic() + _USE_EVERY
        while waiters:
            with contextlib.suppress(OSError):
                await self._look_at_jobs(cluster, waiters)
            started = time.monotonic()
            if started >= due:
                with contextlib.suppress(OSError):
                    await self._look_at_use(cluster, waiters)
                cost = _SHARE * (time.monotonic() - started)
                # In the end once in half a minute; often while there is a suspicion.
                suspicion = any(waiter.given_up is not None for waiter in waiters)
                pause = _USE_EVERY if suspicion else min(_USE_AT_MOST, pause * 1.25)
                due = time.monotonic() + max(pause, min(cost, _USE_AT_MOST))
            await asyncio.sleep(_JOB_EVERY)

    async def _look_at_jobs(self, cluster: Cluster, waiters: set[_Waiter]) -> None:
        for job_id in {waiter.job_id for waiter in waiters}:
            if await cluster.is_over(job_id):
                for waiter in [each for each in waiters if each.job_id == job_id]:
                    waiter.end(UnwantedError("the job has ended"))

    async def _look_at_use(self, cluster: Cluster, waiters: set[_Waiter]) -> None:
        for job_id in {waiter.job_id for waiter in waiters}:
            concerned = [each for each in waiters if each.job_id == job_id]
            use = await cluster.env_use(job_id)
            for waiter in concerned:
                waiter.judge(use)


def _is_job_id(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) * 2 == len(text) == _JOB_ID_DIGITS
    except ValueError:
        return False


def _gcs_of(session: Session) -> GcsState:
    endpoint = gcs_endpoint(session)
    assert endpoint is not None  # noqa: S101 - only sessions with an address are watched
    return GcsState(endpoint, session.owner)
