"""The manager against a model: who holds what, through failures, time-outs, kills, sessions that come and go.

Everything below the raylet's face is the real thing, but for what fills an object. Time and the order in
which threads get their work done are the test's (stepped.py).
"""

import logging
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from manager_model import Model
from stepped_world import (
    DIGEST,
    ENVS,
    FAILURES,
    INTERVAL,
    MOST_IDLE,
    SteppedWorld,
    key,
)

from ray_envd.agent import envs
from ray_envd.cache.errors import InUseError

pytestmark = pytest.mark.slow


_sessions = st.sampled_from(["s", "t"])
_envs = st.sampled_from([*list(ENVS)[:-1] * 3, "bad"])
_seldom = st.integers(0, 3).map(lambda number: number == 3)
_seconds = st.sampled_from([0.5, 3.0, 10.0, 700.0])
_jobs = st.lists(st.integers(0, 5), min_size=1, max_size=5)
_timeouts = st.sampled_from([-1, 3, 30])
_counted = st.sampled_from([True, True, True, False])


class ManagerMachine(Model, RuleBasedStateMachine):
    """The model: how many references each env has in each session, and which requests are unanswered."""

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

    @rule(name=_sessions, seldom=_seldom)
    def lose(self, name: str, seldom: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        """The raylet is gone."""
        if seldom:
            self._lose(name)

    @rule(name=_sessions, jobs=_jobs)
    def come_back(self, name: str, jobs: list[int]) -> None:
        """A link loses its daemon's ear and is there again, before the daemon has done with the first."""
        self._lose(name)
        self._attach(name)
        self.work(jobs)

    # the daemon

    @rule(seldom=_seldom, killed=st.booleans(), back=st.sets(_sessions))
    def restart(self, seldom: bool, killed: bool, back: set[str]) -> None:  # noqa: FBT001 - hypothesis names its arguments
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

    # requests

    @rule(
        name=_sessions, env=_envs, counted=_counted, timeout=st.sampled_from([-1, 3, 30]), busy=st.booleans()
    )
    def ask(self, name: str, env: str, counted: bool, timeout: int, busy: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        """A worker is to be started; of a busy daemon's threads, none has got round to anything yet."""
        self._ask(name, env, counted=counted, timeout=timeout)
        if not busy:
            self._settle()

    @rule(name=_sessions, env=_envs, counted=_counted)
    def use(self, name: str, env: str, counted: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
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
    def leave(self, which: int, seldom: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        """A raylet closes its connection before it has an answer."""
        if self.asked and seldom:
            self.asked[which % len(self.asked)].task.cancel()
            self._run()

    @rule(which=st.integers(0, 20), counted=_counted, times=st.integers(1, 3))
    def release(self, which: int, counted: bool, times: int) -> None:  # noqa: FBT001 - hypothesis names its arguments
        """Workers have ended that had an env; maybe one is given back too often."""
        held = [(name, env) for name, life in self.lives.items() for env in ENVS if life.counts[env]]
        if held:
            self._release(*held[which % len(held)], counted=counted, times=times)

    @rule(name=_sessions, env=_envs)
    def release_anything(self, name: str, env: str) -> None:
        """An env is given back that need not be anybody's."""
        self._release(name, env, counted=True, times=1)

    # what happens meanwhile

    @rule(which=st.integers(0, 20), outcome=st.sampled_from(["", "", *FAILURES]), busy=st.booleans())
    def end_a_build(self, which: int, outcome: str, busy: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
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

    # what holds at all times

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
