"""When the cluster wants an env no more: what is concluded from the GCS's answers, and what is not."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ray_envd.agent import jobs
from ray_envd.agent.errors import DownloadError, UnwantedError
from ray_envd.agent.fetch.gcs_state import EnvUse
from ray_envd.agent.jobs import Jobs
from ray_envd.agent.sessions import Session
from ray_envd.cache.owner import Owner

JOB, OTHER = "01000000", "02000000"
NOBODY = EnvUse(frozenset(), {})


class Cluster:
    """A GCS that answers what the test says."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.use: EnvUse | None = NOBODY
        self.error: Exception | None = None
        self.looks = 0
        self.open = 0

    @asynccontextmanager
    async def connect(self, _session: Session) -> AsyncIterator["Cluster"]:
        if isinstance(self.error, DownloadError):
            raise self.error
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def is_over(self, job_id: str) -> bool:
        if self.error is not None:
            raise self.error
        return job_id in self.dead

    async def env_use(self, _job_id: str) -> EnvUse | None:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.use

    def gave_up(self, *envs: str, wanted: tuple[str, ...] = (), ago: float = 0.0) -> None:
        """These envs' tasks were cancelled; those are wanted."""
        self.use = EnvUse(frozenset(wanted), dict.fromkeys(envs, time.time() - ago))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Quickly asked."""
    monkeypatch.setattr(jobs, "_JOB_EVERY", 0.01)
    monkeypatch.setattr(jobs, "_USE_EVERY", 0.02)
    monkeypatch.setattr(jobs, "_USE_AT_MOST", 0.05)
    return Cluster()


@pytest.fixture
def watch(cluster: Cluster) -> Jobs:
    return Jobs(cluster.connect)


def session(gcs: str = "127.0.0.1:1") -> Session:
    return Session("s", Owner.current(), "python", {}, Path("/tmp"), gcs_address=gcs)


async def waits(watch: Jobs, env: str = "e", job: str = JOB, of: Session | None = None) -> None:
    """A request that only the watch can end."""
    async with watch.attended(of or session(), job, env):
        await asyncio.Event().wait()


async def looks(cluster: Cluster, count: int = 6) -> None:
    """The GCS was asked so many times more."""
    wanted = cluster.looks + count
    await until(lambda: cluster.looks >= wanted)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a task of another's
            await asyncio.sleep(0.002)


async def ended(task: "asyncio.Task[None]") -> None:
    """It was told that nobody wants it, and is not left cancelled."""
    async with asyncio.timeout(10):
        with pytest.raises(UnwantedError):
            await task


async def cancelled(*tasks: "asyncio.Task[None]") -> None:
    """They were waiting until now."""
    for task in tasks:
        assert not task.done()
        task.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError)
        for each in await asyncio.gather(*tasks, return_exceptions=True)
    )


async def test_a_job_that_ends_takes_its_requests_with_it(cluster: Cluster, watch: Jobs) -> None:
    """All of them, and no other job's; the connection closes with the last request."""
    mine = [asyncio.create_task(waits(watch, env)) for env in ("a", "b")]
    others = asyncio.create_task(waits(watch, "a", OTHER))
    await looks(cluster)
    cluster.dead = {JOB}
    for task in mine:
        await ended(task)
    await looks(cluster)
    await cancelled(others)
    await until(lambda: not cluster.open)


async def test_an_env_that_everybody_gave_up(cluster: Cluster, watch: Jobs) -> None:
    """Its requests end; those of an env that a task still wants go on, cancelled tasks or not."""
    given_up, wanted, unknown = (asyncio.create_task(waits(watch, env)) for env in ("a", "b", "c"))
    await looks(cluster)
    cluster.gave_up("a", "b", wanted=("b",))
    await ended(given_up)
    await looks(cluster)
    await cancelled(wanted, unknown)


async def test_one_look_is_not_enough(cluster: Cluster, watch: Jobs) -> None:
    """A task that comes after the cancellation is seen at the second look, and the request goes on."""
    task = asyncio.create_task(waits(watch))
    await looks(cluster, 1)
    for _ in range(5):
        cluster.gave_up("e")
        await looks(cluster, 1)
        cluster.gave_up("e", wanted=("e",))
        await looks(cluster, 1)
    await cancelled(task)


@pytest.mark.parametrize("answer", ["truncated", "old", "silent"])
async def test_what_is_not_certain_changes_nothing(cluster: Cluster, watch: Jobs, answer: str) -> None:
    """Not all tasks known, a cancellation long before the request, a GCS that is away for a while."""
    task = asyncio.create_task(waits(watch))
    await looks(cluster, 1)
    if answer == "truncated":
        cluster.use = None
    elif answer == "old":
        cluster.gave_up("e", ago=3600)
    else:
        cluster.gave_up("e")
        cluster.error = OSError("UNAVAILABLE")
    await looks(cluster)
    if answer == "silent":
        cluster.error = None
        await ended(task)
    else:
        await cancelled(task)


@pytest.mark.parametrize("error", [NotImplementedError("UNIMPLEMENTED"), DownloadError("no certificate")])
async def test_a_gcs_that_never_answers_is_not_asked_again(
    cluster: Cluster, watch: Jobs, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests wait as without it; it is said once."""
    cluster.error = error
    first = asyncio.create_task(waits(watch))
    await until(lambda: bool(caplog.records))
    second = asyncio.create_task(waits(watch))
    await asyncio.sleep(0)
    await cancelled(first, second)
    assert len(caplog.records) == 1
    assert not cluster.open


@pytest.mark.parametrize(
    ("job", "gcs"), [("", "127.0.0.1:1"), ("../x", "127.0.0.1:1"), ("0102", "x:1"), (JOB, "")]
)
async def test_requests_without_a_job_are_not_watched(
    cluster: Cluster, watch: Jobs, job: str, gcs: str
) -> None:
    """Nobody could tell about them."""
    cluster.dead = {JOB, job}
    task = asyncio.create_task(waits(watch, job=job, of=session(gcs)))
    watched = asyncio.create_task(waits(watch))
    await ended(watched)
    await cancelled(task)


async def test_other_ends_are_passed_on(cluster: Cluster, watch: Jobs) -> None:
    """A result, an error, a time-out and a cancellation leave the block as without it."""
    cluster.use = NOBODY
    async with watch.attended(session(), JOB, "e"):
        pass
    with pytest.raises(ValueError, match="own"):
        async with watch.attended(session(), JOB, "e"):
            raise ValueError("own")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await waits(watch)
    task = asyncio.create_task(waits(watch))
    await looks(cluster, 2)
    await cancelled(task)
    await until(lambda: not cluster.open)
