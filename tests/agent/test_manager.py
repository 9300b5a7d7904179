"""The manager on a real store: one preparation, exact references, retries, deadlines, memory of failures."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import wait_until

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.errors import (
    BuildError,
    DrainingError,
    EnvError,
    NetworkError,
    SetupTimeoutError,
)
from ray_envd.agent.guard import Guard
from ray_envd.agent.manager import Ask, Manager
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.progress import Event
from ray_envd.agent.room import Report, Room
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.agent.setup_log import SetupLogWriter
from ray_envd.agent.slots import Slots
from ray_envd.agent.trees import Trees
from ray_envd.agent.workshop import Made, Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.errors import NotReferencedError
from ray_envd.cache.owner import Owner
from ray_envd.cache.references import References
from ray_envd.cache.store import Build, Store

Work = Callable[[Report], Awaitable[None]]


class FakeInstaller:
    """Stands for ``pip``: its value names an object; what the build does is the test's choice."""

    field = "pip"

    def __init__(self) -> None:
        self.builds = 0
        self.work: Work | None = None

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        key = bench.key("python", value["digest"])

        async def fill(build: Build, report: Report, _room: Room) -> Made:
            self.builds += 1
            report("building", "step")
            if self.work is not None:
                await self.work(report)
            await asyncio.to_thread((build.path / "file").write_text, "x" * 5000)
            return Made({})

        _, built = await bench.obtain(key, fill, field="pip", summary="fake", reserve=1000)
        return Contribution(objects=(key,), built=built, variables={"FAKE": value["digest"]})


class World:
    """A manager with everything below it, which a test can stop and start anew on the same store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.installer = FakeInstaller()
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.root / "store")
        self.references = References.open(self.store.layout.sessions)
        self.metrics, self.logs = Metrics(), SetupLogWriter()
        self.budget = Budget(None, lambda: shutil.disk_usage(self.root).free, 0)
        self.workshop = Workshop(self.store, self.budget, self.metrics, Slots(2, 2))
        self.workshop.guard = Guard(self.store, good_for=3600)
        self.trees = Trees()
        preparation = Preparation(self.workshop, {"pip": self.installer})
        self.manager = Manager(
            self.workshop, self.references, preparation, self.trees, self.logs, self.metrics
        )

    def close(self) -> None:
        self.logs.close()
        self.workshop.close()
        self.references.close()
        self.store.close()

    async def session(self, name: str = "s", **settings: Any) -> Session:
        folder = self.root / name
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        chosen = SessionSettings(retry_interval=0.01, **settings)
        session = Session(
            name,
            Owner.current(),
            "/ray/python",
            {},
            folder,
            log_dir=folder,
            node_ip="10.0.0.1",
            settings=chosen,
        )
        await self.manager.uses.start(session)
        return session


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await asyncio.to_thread(World, tmp_path)
    yield made
    await asyncio.to_thread(made.close)


def ask(digest: str = "aa", **more: Any) -> Ask:
    more.setdefault("job_id", "01000000")
    return Ask(json.dumps({"pip": {"digest": digest * 8}}), **more)


async def test_hundreds_of_requests_build_once_and_each_gets_a_reference(world: World) -> None:
    """A cold env that many ask for at once is built once, and every one of them holds it."""
    session = await world.session()
    envs = await asyncio.gather(*(world.manager.acquire(session, ask()) for _ in range(300)))
    assert world.installer.builds == 1
    assert len({env.context for env in envs}) == 1
    assert world.manager.uses.states(session)[0].references == 300


async def test_two_specs_that_lead_to_one_object_build_it_once(world: World) -> None:
    """Different runtime envs (and sessions) share what they have in common, also while it is built."""
    one, two = await world.session("one"), await world.session("two")
    other = Ask(json.dumps({"pip": {"digest": "aa" * 8}, "env_vars": {"X": "1"}}))
    await asyncio.gather(world.manager.acquire(one, ask()), world.manager.acquire(two, other))
    assert world.installer.builds == 1
    looked_up = {
        outcome: world.metrics.value("ray_envd_lookups_total", kind="python", outcome=outcome)
        for outcome in ("hit", "miss", "joined")
    }
    assert looked_up == {"hit": 0, "miss": 1, "joined": 1}
    assert [len(world.manager.uses.states(each)) for each in (one, two)] == [1, 1]


async def test_the_age_of_what_is_not_used_counts_from_its_end(world: World) -> None:
    """What a job of days has used is not days old when the job ends, nor when its raylet dies."""
    session, store = await world.session(), world.manager.workshop.store
    env = await world.manager.acquire(session, ask())
    found = store._objects._stored[env.objects[0]]
    found.last_used -= 3600
    world.manager.uses.release(session, ask().serialized, "")
    assert time.time() - found.entry.last_used < 60
    await world.manager.acquire(session, ask())
    found.last_used -= 3600
    uses = found.uses
    await world.manager.uses.end(session.id)
    assert time.time() - found.entry.last_used < 60
    assert found.uses == uses


async def test_a_hit_counts_and_a_release_gives_back(world: World) -> None:
    """References go up by one with each success and down by one with each release, never below zero."""
    session = await world.session()
    assert world.manager.hit(session, ask()) is None
    env = await world.manager.acquire(session, ask())
    assert world.manager.hit(session, ask()) == env.context
    assert world.manager.uses.states(session)[0].references == 2
    for _ in range(2):
        world.manager.uses.release(session, ask().serialized, "worker")
    with pytest.raises(NotReferencedError):
        world.manager.uses.release(session, ask().serialized, "worker")


async def test_the_client_server_is_not_counted(world: World) -> None:
    """Ray Client's proxy never gives back what it asks for: stock does not count it."""
    session = await world.session()
    await world.manager.acquire(session, ask(source="client_server"))
    assert world.manager.hit(session, ask(source="client_server")) is not None
    assert world.manager.uses.states(session)[0].references == 0
    world.manager.uses.release(session, ask().serialized, "client_server")


async def test_references_survive_the_daemon(world: World) -> None:
    """A daemon that comes back finds counts and contexts; a hit needs no more than a look at the objects."""
    session = await world.session()
    context = (await world.manager.acquire(session, ask())).context
    world.manager.hit(session, ask())
    await asyncio.to_thread(world.close)
    await asyncio.to_thread(world.open)
    again = await world.session()
    assert world.manager.uses.states(again)[0].references == 2
    assert world.manager.hit(again, ask()) is None
    env = await world.manager.acquire(again, ask())
    assert (env.context, env.built) == (context, False)
    assert world.manager.hit(again, ask()) == context
    assert world.manager.uses.states(again)[0].references == 4
    assert world.installer.builds == 1


async def test_the_end_of_a_session_ends_its_references(world: World) -> None:
    """What only a lost session used can be collected."""
    session = await world.session()
    env = await world.manager.acquire(session, ask())
    assert world.references.is_referenced(env.objects[0])
    await world.manager.uses.end(session.id)
    assert not world.references.is_referenced(env.objects[0])


async def test_an_env_whose_object_was_collected_is_built_again(world: World) -> None:
    """A ready env is only as good as what it stands on."""
    session = await world.session()
    env = await world.manager.acquire(session, ask())
    world.manager.uses.release(session, ask().serialized, "")
    await asyncio.to_thread(world.store.evict, env.objects[0], world.references.is_referenced)
    assert world.manager.hit(session, ask()) is None
    await world.manager.acquire(session, ask())
    assert world.installer.builds == 2


async def test_a_session_is_held_to_its_own_cache_size(world: World) -> None:
    """RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB of one cluster: its unused envs go, least recently used first."""
    small = await world.session("small", cache_bytes={"pip": 30_000})
    digests = ["aa", "bb", "cc", "dd"]
    for digest in digests:
        await world.manager.acquire(small, ask(digest))
    for digest in digests:
        world.manager.uses.release(small, ask(digest).serialized, "")

    def left() -> list[str]:
        return sorted(entry.key.digest[:2] for entry in world.store.entries())

    await asyncio.to_thread(wait_until, lambda: left() == ["cc", "dd"], 5, "two envs to go")

    def evicted() -> float:
        return world.metrics.value("ray_envd_evictions_total", kind="python", reason="session_limit")

    await asyncio.to_thread(wait_until, lambda: evicted() == 2, 5, "both to be counted")


async def test_what_is_used_counts_towards_a_sessions_cache_size(world: World) -> None:
    """As in stock: unused envs fit by themselves, but not beside the one that is used."""
    small = await world.session("small", cache_bytes={"pip": 30_000})
    for digest in ("aa", "bb", "cc"):
        await world.manager.acquire(small, ask(digest))
    for digest in ("bb", "cc"):
        world.manager.uses.release(small, ask(digest).serialized, "")

    def left() -> list[str]:
        return sorted(entry.key.digest[:2] for entry in world.store.entries())

    await asyncio.to_thread(wait_until, lambda: left() == ["aa", "cc"], 5, "one env to go")


async def test_a_sessions_limit_spares_what_others_could_use(world: World) -> None:
    """Another cluster without that limit keeps its env ready."""
    small = await world.session("small", cache_bytes={"pip": 0})
    large = await world.session("large")
    for session in (small, large):
        await world.manager.acquire(session, ask("aa"))
        world.manager.uses.release(session, ask("aa").serialized, "")
    await world.manager.acquire(small, ask("bb"))
    world.manager.uses.release(small, ask("bb").serialized, "")
    await asyncio.to_thread(wait_until, lambda: len(world.store.entries()) == 1, 5, "one env to go")
    assert world.manager.hit(large, ask("aa")) is not None


async def test_envs_that_nobody_uses_are_forgotten_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that lives long does not keep a record of every env it ever had; used ones stay."""
    monkeypatch.setattr("ray_envd.agent.envs._MOST_IDLE", 3)
    session = await world.session()
    kept = Ask('{"env_vars": {"N": "kept"}}')
    await world.manager.acquire(session, kept)
    asks = [Ask(f'{{"env_vars": {{"N": "{number}"}}}}') for number in range(10)]
    for each in asks:
        await world.manager.acquire(session, each)
        world.manager.uses.release(session, each.serialized, "")

    def left() -> int:
        scripts = list((session.runtime_env_dir / "ray-envd").iterdir())
        bound = world.references.envs(session.id)
        return len(scripts) if len(scripts) == len(bound) else -1

    await asyncio.to_thread(wait_until, lambda: left() == 4, 5, "six envs to be forgotten")
    assert world.manager.hit(session, kept) is not None
    assert world.manager.hit(session, asks[0]) is None
    assert await world.manager.acquire(session, asks[0])


async def test_a_lasting_failure_is_tried_once_and_remembered(world: World) -> None:
    """A permanent error costs one attempt, adds no reference, and is answered from memory afterwards."""
    session = await world.session()

    async def fail(_report: Report) -> None:
        raise BuildError("broken package", field="pip", remedy="mend it")

    world.installer.work = fail
    for _ in range(3):
        with pytest.raises(BuildError, match="broken package"):
            await world.manager.acquire(session, ask())
    assert world.installer.builds == 1
    state = world.manager.uses.states(session)[0]
    assert (state.success, state.references) == (False, 0)
    assert "broken package" in (state.error or "")


async def test_a_passing_failure_is_retried_with_the_clusters_settings(world: World) -> None:
    """RUNTIME_ENV_RETRY_TIMES attempts, and success on the last of them is success."""
    session = await world.session(retry_times=3)
    attempts = 0

    async def flaky(_report: Report) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise NetworkError("connection reset", field="pip")

    world.installer.work = flaky
    assert (await world.manager.acquire(session, ask())).built
    assert attempts == 3
    assert world.manager.uses.states(session)[0].success is True


async def test_failed_builds_leave_nothing_behind(world: World) -> None:
    """Neither a folder nor an object remains of a build that failed."""
    session = await world.session(retry_times=1)

    async def fail(_report: Report) -> None:
        raise BuildError("no", field="pip")

    world.installer.work = fail
    with pytest.raises(BuildError):
        await world.manager.acquire(session, ask())
    assert world.store.entries() == []
    objects = world.store.layout.user(Owner.current().uid).objects
    assert [path for path in objects.rglob("*") if path.is_file()] == []


async def test_each_waiter_has_its_own_deadline(world: World) -> None:
    """One waiter's time-out neither ends the build nor fails the other; it is not remembered as a failure."""
    session = await world.session()
    release = asyncio.Event()

    async def slow(_report: Report) -> None:
        await release.wait()

    world.installer.work = slow
    patient = asyncio.create_task(world.manager.acquire(session, ask(timeout=-1)))
    with pytest.raises(SetupTimeoutError, match="within the timeout of 1 seconds"):
        await world.manager.acquire(session, ask(timeout=1))
    release.set()
    assert (await patient).built
    assert world.installer.builds == 1
    assert world.manager.uses.states(session)[0].references == 1


async def test_the_last_waiter_gone_ends_the_build(world: World) -> None:
    """Nobody waits, nobody works: the build is cancelled and its folder is gone."""
    session = await world.session()
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(_report: Report) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    world.installer.work = endless
    waiter = asyncio.create_task(world.manager.acquire(session, ask()))
    await asyncio.wait_for(started.wait(), 5)
    waiter.cancel()
    await asyncio.wait_for(cancelled.wait(), 5)
    world.installer.work = None
    assert (await world.manager.acquire(session, ask())).built
    assert world.metrics.value("ray_envd_acquires_total", outcome="cancelled") == 1
    assert world.metrics.value("ray_envd_builds_total", kind="python", outcome="cancelled") == 1
    phase = {"kind": "python", "phase": "make", "outcome": "cancelled"}
    assert world.metrics.value("ray_envd_build_phase_seconds_count", **phase) == 1


async def test_draining_hangs_up_on_those_who_wait(world: World) -> None:
    """A daemon that ends refuses new work and ends what runs with an error that means: ask again."""
    session = await world.session()
    started = asyncio.Event()

    async def endless(_report: Report) -> None:
        started.set()
        await asyncio.Event().wait()

    world.installer.work = endless
    waiter = asyncio.create_task(world.manager.acquire(session, ask()))
    await asyncio.wait_for(started.wait(), 5)
    world.manager.draining = True
    assert await world.manager.attempts.runs.cancel_all() == 1
    with pytest.raises(DrainingError):
        await waiter
    with pytest.raises(DrainingError):
        await world.manager.acquire(session, ask("bb"))
    assert world.manager.uses.states(session) == []


async def test_an_unexpected_error_becomes_a_failure_without_a_traceback(world: World) -> None:
    """Whatever goes wrong inside, the raylet gets an answer that it can show."""
    session = await world.session()

    async def bug(_report: Report) -> None:
        raise ZeroDivisionError("inner detail")

    world.installer.work = bug
    with pytest.raises(EnvError, match="unexpected ZeroDivisionError") as caught:
        await world.manager.acquire(session, ask())
    assert "inner detail" not in str(caught.value)


async def test_the_set_up_log_tells_the_steps_and_the_reuse(world: World) -> None:
    """A job sees what happens for it; a second job that reuses the env is told so, once."""
    session = await world.session()
    events: list[Event] = []
    await world.manager.acquire(session, ask(job_id="01"), events.append)
    for _ in range(3):
        world.manager.hit(session, ask(job_id="02"))
    assert await asyncio.to_thread(world.logs.flushed().wait, 5)
    folder = session.log_dir or Path()
    first = await asyncio.to_thread((folder / "runtime_env_setup-01.log").read_text)
    second = await asyncio.to_thread((folder / "runtime_env_setup-02.log").read_text)
    assert "pip: building step" in first
    assert "runtime env is ready" in first
    assert second.count("reused") == 1
    assert [event.phase for event in events] == ["building"]


async def test_unknown_fields_are_a_warning_in_the_log(world: World) -> None:
    """As in stock: ignored, and said."""
    session = await world.session()
    await world.manager.acquire(session, Ask('{"mystery": 1}', job_id="03"))
    assert await asyncio.to_thread(world.logs.flushed().wait, 5)
    text = await asyncio.to_thread(((session.log_dir or Path()) / "runtime_env_setup-03.log").read_text)
    assert "WARNING" in text
    assert "runtime_env field mystery is not recognized" in text


async def test_values_of_env_vars_stand_in_a_private_file_only(world: World) -> None:
    """The context names the file; the file is its owner's alone; info shows no value."""
    session = await world.session()
    env = await world.manager.acquire(session, Ask('{"env_vars": {"TOKEN": "canary-value"}}'))
    assert "canary" not in env.context
    script = Path(json.loads(env.context)["command_prefix"][1])
    assert "canary-value" in await asyncio.to_thread(script.read_text)
    assert (await asyncio.to_thread(script.stat)).st_mode & 0o777 == 0o600
    assert "canary" not in world.manager.uses.states(session)[0].runtime_env
