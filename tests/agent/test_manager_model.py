"""The manager against a model: who holds what, through failures, time-outs, kills, sessions that come and go.

Everything below the raylet's face is the real thing, but for what fills an object. Time and the order in
which threads get their work done are the test's (stepped.py).
"""

import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stepped import Jobs, SteppedLoop
from test_manager import World

from ray_envd.agent import envs
from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.errors import BuildError, NetworkError
from ray_envd.agent.http import HANG_UP, Request, Response
from ray_envd.agent.pb import runtime_env_pb2 as pb
from ray_envd.agent.raylet_http import RayletFace
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.agent.spec import digest_of_serialized
from ray_envd.agent.workshop import Made
from ray_envd.cache.errors import InUseError
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Build

pytestmark = pytest.mark.slow


#: Env -> the objects on which it stands. Envs share objects, one needs none, one is no runtime env at all.
ENVS = {"a": "A", "ab": "AB", "bc": "BC", "cd": "CD", "none": "", "bad": ""}
SERIALIZED = {
    name: json.dumps({"pip": {"objects": list(objects)}, "env_vars": {"NAME": name}})
    for name, objects in ENVS.items()
    if objects
} | {"none": '{"env_vars": {"N": "1"}}', "bad": '{"env_vars": 3}'}
DIGEST = {name: digest_of_serialized(text) for name, text in SERIALIZED.items()}
RETRIES, INTERVAL, FAILURE_TTL, PASSING_TTL, MOST_IDLE = 2, 1.0, 600.0, 5.0, 2
LASTING, PASSING, BUG, TIMED_OUT = (
    "broken for good",
    "broken for now",
    "unexpected Zero",
    "within the timeout",
)
FAILURES: dict[str, Callable[[], Exception]] = {
    LASTING: lambda: BuildError(LASTING, field="pip"),
    PASSING: lambda: NetworkError(PASSING, field="pip"),
    BUG: ZeroDivisionError,
}

_sessions = st.sampled_from(["s", "t"])
_envs = st.sampled_from([*list(ENVS)[:-1] * 3, "bad"])
_seldom = st.integers(0, 3).map(lambda number: number == 3)
_seconds = st.sampled_from([0.5, 3.0, 10.0, 700.0])
_jobs = st.lists(st.integers(0, 5), min_size=1, max_size=5)
_timeouts = st.sampled_from([-1, 3, 30])
_counted = st.sampled_from([True, True, True, False])


def key(name: str) -> ObjectKey:
    return ObjectKey(Owner.current().uid, "python", digest_of(name))


class CommandedInstaller:
    """Builds small objects, when and as it is told.

    Attributes:
        builds: those under way: what will become of each.
        begun: how many were begun.
    """

    field = "pip"

    def __init__(self) -> None:
        self.builds: dict[str, asyncio.Future[str]] = {}
        self.begun = 0

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        built = False
        for name in value["objects"]:
            _, made = await bench.obtain(
                key(name),
                partial(self._fill, name, bench),
                field="pip",
                summary=name,
                reserve=1000,
            )
            built = built or made
        return Contribution(objects=tuple(map(key, value["objects"])), built=built)

    async def _fill(self, name: str, bench: Bench, build: Build, *_: Any) -> Made:
        assert name not in self.builds, f"{name} is built twice at a time"
        self.begun += 1
        told = self.builds[name] = asyncio.get_running_loop().create_future()
        try:
            await bench.thread((build.path / "half").write_text, "half")
            outcome = await told
            if outcome:
                failure = FAILURES[outcome]()
                raise failure
            await bench.thread((build.path / "content").write_text, name * 100)
        finally:
            del self.builds[name]
        return Made({"name": name})


class SteppedWorld(World):
    """A daemon's inside in which nothing happens unasked."""

    def __init__(self, root: Path) -> None:
        self.root, self.installer = root, CommandedInstaller()
        self.open()

    def open(self) -> None:
        self.loop, self.jobs = SteppedLoop(), Jobs()
        self.loop.set_default_executor(self.jobs)
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.installer.builds.clear()
        super().open()
        self.manager.uses.clock = self.loop.time
        self.workshop._threads = self.jobs
        self.workshop.guard.knows = lambda *_: True  # nothing is ever damaged here

    def run(self, work: Any) -> Any:
        """Runs something to its end, with all the jobs that it needs."""
        task = self.loop.create_task(work)
        self.settle()
        return task.result()

    def settle(self) -> None:
        """Runs all that can run without more time."""
        self.loop.run_ready()
        while self.jobs:
            while self.jobs.waiting:
                self.jobs.work()
            if self.jobs.done:
                self.jobs.report(0)
            self.loop.run_ready()

    def kill(self) -> None:
        """What a SIGKILL leaves: nothing more is done on the disk, all memory is gone."""
        self.jobs.kill()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_ready()
        self.logs.close()
        self.store._catalog.close()
        self.store._process_lock.release()
        self.loop.close()


@dataclass(eq=False)
class Asked:
    """A request that is not answered yet."""

    session: str
    env: str
    counted: bool
    deadline: float | None
    task: "asyncio.Task[Response]"


@dataclass
class Life:
    """What the model knows of a session.

    Attributes:
        session: None while its raylet is not attached.
        counts: env -> references.
        failed: env -> what it failed with, and until when that is known.
        turns: beginnings and ends under way.
    """

    session: Session | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENVS, 0))
    failed: dict[str, tuple[str, float]] = field(default_factory=dict)
    turns: "list[tuple[Session | None, asyncio.Task[None]]]" = field(default_factory=list)


class ManagerMachine(RuleBasedStateMachine):
    """The model: how many references each env has in each session, and which requests are unanswered."""

    def __init__(self) -> None:
        super().__init__()
        in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
        self.root = Path(tempfile.mkdtemp(prefix="manager-", dir=in_memory))
        self.lives = {"s": Life(), "t": Life()}
        self.asked: list[Asked] = []
        self.told: set[tuple[str, str]] = set()  # (object, failure) that a build was told

    @initialize()
    def open(self) -> None:
        self.world = SteppedWorld(self.root)
        for name in self.lives:
            self._attach(name)
        self._settle()

    # sessions

    @rule(name=_sessions, seldom=_seldom)
    def say_hello(self, name: str, seldom: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        """A link comes, or comes again."""
        if seldom or self.lives[name].session is None:
            self._attach(name)

    def _attach(self, name: str) -> None:
        self._hang_up(name)
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        chosen = SessionSettings(RETRIES, INTERVAL, FAILURE_TTL)
        session = Session(name, Owner.current(), "/ray/python", {}, folder, settings=chosen)
        self._turn(name, session, self.world.manager.uses.start(session))

    @rule(name=_sessions, seldom=_seldom)
    def lose(self, name: str, seldom: bool) -> None:  # noqa: FBT001
        """The raylet is gone."""
        if seldom:
            self._lose(name)

    @rule(name=_sessions, jobs=_jobs)
    def come_back(self, name: str, jobs: list[int]) -> None:
        """A link loses its daemon's ear and is there again, before the daemon has done with the first."""
        self._lose(name)
        self._attach(name)
        self.work(jobs)

    def _lose(self, name: str) -> None:
        self._hang_up(name)
        self._turn(name, None, self.world.manager.uses.end(name))

    def _turn(self, name: str, session: Session | None, work: Any) -> None:
        self.lives[name].turns.append((session, self.world.loop.create_task(work)))
        self._run()

    def _hang_up(self, name: str) -> None:
        """Requests end with the face that took them, before anything else does."""
        for asked in [each for each in self.asked if each.session == name]:
            asked.task.cancel()
        self._run()

    # the daemon

    @rule(seldom=_seldom, killed=st.booleans(), back=st.sets(_sessions))
    def restart(self, seldom: bool, killed: bool, back: set[str]) -> None:  # noqa: FBT001
        """A new daemon, to which some of the raylets come back at once."""
        if not seldom:
            return
        if killed:
            # Whatever was under way: what was answered counts, what was not does not.
            self.world.kill()
            self.asked.clear()
        else:
            self._drain()
        self._reopen()
        for name in sorted(back):
            self._attach(name)

    def _drain(self) -> None:
        """Those who wait are hung up on: none gets an answer that would be counted."""
        self._settle()
        self.world.manager.draining = True
        for name in [name for name, life in self.lives.items() if life.session]:
            waiting = len(self.asked)
            self._ask(name, "cd")
            assert len(self.asked) == waiting, "new work was taken"
        self.world.run(self.world.manager.attempts.runs.cancel_all())
        self._look_at_answers()
        assert self.asked == []
        self._check_rest()
        self.world.close()
        self.world.loop.close()

    def _reopen(self) -> None:
        self.world.open()
        left = {record.session_id for record in self.world.references.sessions()}
        for name, life in self.lives.items():
            # A session that was just ending or beginning has ended or not, as a whole.
            ended = any(session is None for session, _ in life.turns)
            assert name in left or ended or not any(life.counts.values())
            if ended and not any(self.world.references.count(name, each) for each in DIGEST.values()):
                life.counts = dict.fromkeys(ENVS, 0)
            life.session, life.turns, life.failed = None, [], {}

    # requests

    @rule(
        name=_sessions, env=_envs, counted=_counted, timeout=st.sampled_from([-1, 3, 30]), busy=st.booleans()
    )
    def ask(self, name: str, env: str, counted: bool, timeout: int, busy: bool) -> None:  # noqa: FBT001
        """A worker is to be started; of a busy daemon's threads, none has got round to anything yet."""
        self._ask(name, env, counted=counted, timeout=timeout)
        if not busy:
            self._settle()

    def _ask(self, name: str, env: str, *, counted: bool = True, timeout: int = -1) -> None:
        life = self.lives[name]
        if life.session is None and not life.turns:
            self._attach(name)
            self._settle()
        if life.session is None or life.turns:
            return  # its raylet's requests are not taken yet
        begun, now = self.world.installer.begun, self.world.loop.now
        request = pb.GetOrCreateRuntimeEnvRequest(
            serialized_runtime_env=SERIALIZED[env],
            source_process="raylet" if counted else "client_server",
        )
        request.runtime_env_config.setup_timeout_seconds = timeout
        deadline = None if timeout < 0 else now + timeout
        task = self.world.loop.create_task(self._answer(life.session, "get_or_create", request))
        asked = Asked(name, env, counted, deadline, task)
        held, known = life.counts[env] > 0, life.failed.get(env)
        self.asked.append(asked)
        self._run()
        if held:
            # Also while the daemon drains: it costs nothing.
            assert task.done(), "what is in use is given at once"
            assert _created(task.result()).status == pb.AGENT_RPC_STATUS_OK
        elif known is not None and now < known[1] and task.done():
            assert self.world.installer.begun == begun
        elif known is not None and now < known[1]:
            raise AssertionError("a known failure was tried again")

    async def _answer(self, session: Session, call: str, message: Any) -> Response:
        path = {"get_or_create": "/get_or_create_runtime_env", "delete": "/delete_runtime_env_if_possible"}
        face = RayletFace(session, self.world.manager)
        answer = face(Request("POST", path[call], {}, message.SerializeToString()))
        return answer if isinstance(answer, Response) else await answer

    @rule(name=_sessions, env=_envs, counted=_counted)
    def use(self, name: str, env: str, counted: bool) -> None:  # noqa: FBT001
        """A worker is started, and nothing goes wrong."""
        self._settle()
        self._ask(name, env, counted=counted)
        self._settle()
        while any(asked.session == name and asked.env == env for asked in self.asked):
            for build in self.world.installer.builds.values():
                build.set_result("")
            self._settle()
            self.world.loop.pass_time(INTERVAL)

    @rule(name=_sessions, env=_envs)
    def come_and_go(self, name: str, env: str) -> None:
        """A worker comes, goes, what it had is collected, and another comes."""
        self.use(name, env, counted=True)
        self._release(name, env, counted=True, times=self.lives[name].counts[env])
        self.collect()
        self.use(name, env, counted=True)

    @rule(name=_sessions)
    def use_everything_uncounted(self, name: str) -> None:
        """Ray Client's proxy never gives back, and what only it asked for is not kept for ever."""
        for env in ENVS:
            self.use(name, env, counted=False)

    @rule(name=_sessions, env=_envs, outcome=st.sampled_from(sorted(FAILURES)), seconds=_seconds)
    def fail(self, name: str, env: str, outcome: str, seconds: float) -> None:
        """What can go wrong with an env goes wrong, and the raylet asks again some time later."""
        self._settle()
        self._ask(name, env)
        self._settle()
        for _ in range(10):  # others' builds may have the slots first
            for build, told in self.world.installer.builds.items():
                told.set_result(outcome)
                self.told.add((build, outcome))
            self._settle()
            self.pass_time(INTERVAL)
        assert not [each for each in self.asked if (each.session, each.env) == (name, env)]
        self.pass_time(seconds)
        self._ask(name, env)
        self._settle()

    @rule(which=st.integers(0, 20), seldom=_seldom)
    def leave(self, which: int, seldom: bool) -> None:  # noqa: FBT001
        """A raylet closes its connection before it has an answer."""
        if self.asked and seldom:
            self.asked[which % len(self.asked)].task.cancel()
            self._run()

    @rule(which=st.integers(0, 20), counted=_counted, times=st.integers(1, 3))
    def release(self, which: int, counted: bool, times: int) -> None:  # noqa: FBT001
        """Workers have ended that had an env; maybe one is given back too often."""
        held = [(name, env) for name, life in self.lives.items() for env in ENVS if life.counts[env]]
        if held:
            self._release(*held[which % len(held)], counted=counted, times=times)

    @rule(name=_sessions, env=_envs)
    def release_anything(self, name: str, env: str) -> None:
        """An env is given back that need not be anybody's."""
        self._release(name, env, counted=True, times=1)

    def _release(self, name: str, env: str, *, counted: bool, times: int) -> None:
        life = self.lives[name]
        if life.session is None or life.turns:
            return
        request = pb.DeleteRuntimeEnvIfPossibleRequest(
            serialized_runtime_env=SERIALIZED[env],
            source_process="raylet" if counted else "client_server",
        )
        for _ in range(times):
            task = self.world.loop.create_task(self._answer(life.session, "delete", request))
            self._run()
            reply = pb.DeleteRuntimeEnvIfPossibleReply.FromString(task.result().body)
            expected = not counted or life.counts[env] > 0
            assert (reply.status == pb.AGENT_RPC_STATUS_OK) == expected
            if counted and expected:
                life.counts[env] -= 1

    # what happens meanwhile

    @rule(which=st.integers(0, 20), outcome=st.sampled_from(["", "", *FAILURES]), busy=st.booleans())
    def end_a_build(self, which: int, outcome: str, busy: bool) -> None:  # noqa: FBT001
        """An object is filled, or cannot be."""
        if not busy:
            self._settle()
        builds = self.world.installer.builds
        if builds:
            name = sorted(builds)[which % len(builds)]
            if not builds[name].done():
                builds[name].set_result(outcome)
                self.told.add((name, outcome))
            self._run()
        if not busy:
            self._settle()

    @rule(jobs=_jobs)
    def work(self, jobs: list[int]) -> None:
        """Threads get something done, and are heard in any order."""
        for which in jobs:
            if self.world.jobs.waiting:
                self.world.jobs.work(which % self.world.jobs.waiting)
            if self.world.jobs.done:
                self.world.jobs.report(which % self.world.jobs.done)
            self._run()

    @rule(seconds=_seconds)
    def pass_time(self, seconds: float) -> None:
        """Deadlines come, retries are due, failures are forgotten."""
        self._settle()
        self.world.loop.pass_time(seconds)
        self._settle()
        assert not [each for each in self.asked if each.deadline and each.deadline <= self.world.loop.now]

    @rule()
    def settle(self) -> None:
        """Nothing is left that could go on by itself."""
        self._settle()

    @rule()
    def collect(self) -> None:
        """Everything goes that may go."""
        store = self.world.store
        for entry in store.entries():
            try:
                store.evict(entry.key, self.world.references.is_referenced)
            except InUseError:
                assert self._is_referenced(entry.key) or store.is_held(entry.key) or self._unsure
            else:
                assert not self._is_referenced(entry.key) or self._unsure

    @precondition(lambda self: not self.asked)
    @rule()
    def rest(self) -> None:
        """With nobody waiting, nothing is held, reserved or under way, and all that is not in use can go."""
        self._settle()
        self._check_rest()
        self.collect()
        left = {entry.key for entry in self.world.store.entries()}
        assert left == {key(name) for name in "ABCD" if self._is_referenced(key(name))}

    def _check_rest(self) -> None:
        world = self.world
        assert (len(world.manager.attempts.runs), world.manager.attempts._progress) == (0, {})
        assert (len(world.workshop.once), world.workshop._progress) == (0, {})
        assert world.installer.builds == {}
        assert world.budget.reserved == 0
        assert not [entry.key for entry in world.store.entries() if world.store.is_held(entry.key)]
        assert world.store._objects._building == {}
        for name, life in self.lives.items():
            if life.session is not None:
                bound = world.references.envs(name)
                assert sum(not each.count for each in bound) <= MOST_IDLE
                states = world.manager.uses.states(life.session)
                shown = {s.runtime_env: s.references for s in states if s.success}
                assert sum(shown.values()) == sum(life.counts.values())

    # the model

    def _run(self) -> None:
        self.world.loop.run_ready()
        self._look_at_answers()

    def _settle(self) -> None:
        self.world.settle()
        self._look_at_answers()
        for life in self.lives.values():
            assert not life.turns

    def _look_at_answers(self) -> None:
        for asked in [each for each in self.asked if each.task.done()]:
            self.asked.remove(asked)
            if not asked.task.cancelled():
                self._note(asked, asked.task.result())
        for life in self.lives.values():
            while life.turns and life.turns[0][1].done():
                life.session, task = life.turns.pop(0)
                task.result()
                if life.session is None:
                    life.counts, life.failed = dict.fromkeys(ENVS, 0), {}

    def _note(self, asked: Asked, answer: Response) -> None:
        life, now = self.lives[asked.session], self.world.loop.now
        if answer is HANG_UP:
            assert self.world.manager.draining
            return
        reply = _created(answer)
        if reply.status == pb.AGENT_RPC_STATUS_OK:
            assert asked.env != "bad"
            life.counts[asked.env] += asked.counted
            life.failed.pop(asked.env, None)
            return
        failure = next((each for each in (*FAILURES, TIMED_OUT) if each in reply.error_message), "")
        if failure == TIMED_OUT:
            assert asked.deadline is not None
            assert asked.deadline <= now
        elif failure:
            assert {(name, failure) for name in ENVS[asked.env]} & self.told
        else:
            assert asked.env == "bad", reply.error_message
        if failure in {LASTING, PASSING} and life.failed.get(asked.env, ("", 0))[1] <= now:
            ttl = FAILURE_TTL if failure == LASTING else PASSING_TTL
            life.failed[asked.env] = failure, now + ttl

    @property
    def _unsure(self) -> bool:
        """Whether a session is just beginning or ending."""
        return any(life.turns for life in self.lives.values())

    def _is_referenced(self, object_key: ObjectKey) -> bool:
        return any(
            object_key in map(key, ENVS[env])
            for life in self.lives.values()
            for env, count in life.counts.items()
            if count
        )

    @invariant()
    def agrees(self) -> None:
        """Never one too many, never one too few; and what is in use is there."""
        if not hasattr(self, "world"):
            return
        references, store = self.world.references, self.world.store
        for name, life in self.lives.items():
            if not life.turns:
                assert {env: references.count(name, DIGEST[env]) for env in ENVS} == life.counts
        if self._unsure:
            return
        assert references.total() == sum(sum(life.counts.values()) for life in self.lives.values())
        for name in "ABCD":
            assert references.is_referenced(key(name)) == self._is_referenced(key(name))
            if references.is_referenced(key(name)):
                entry = store.get(key(name))
                assert entry is not None
                assert (entry.path / "content").read_text() == name * 100

    @invariant()
    def nobody_works_for_nobody(self) -> None:
        """Every build has somebody who waits for it, as soon as what was cancelled has been cleared away."""
        if hasattr(self, "world") and not self.world.jobs:
            wanted = {name for asked in self.asked for name in ENVS[asked.env]}
            assert self.world.installer.builds.keys() <= wanted

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.kill()
        shutil.rmtree(self.root)


def _created(answer: Response) -> Any:
    return pb.GetOrCreateRuntimeEnvReply.FromString(answer.body)


@pytest.fixture(autouse=True)
def _few_idle_envs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(envs, "_MOST_IDLE", MOST_IDLE)
    logging.getLogger("ray_envd").setLevel(logging.CRITICAL)  # unexpected errors are expected here
    yield
    logging.getLogger("ray_envd").setLevel(logging.NOTSET)


ManagerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestManagerModel = ManagerMachine.TestCase
