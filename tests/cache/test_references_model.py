"""References against a model, with restarts at any moment."""

import shutil
import tempfile
from pathlib import Path

import pytest
from helpers import quick_folder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from shelf import age, key

from ray_envd.cache.errors import NotFoundError, NotReferencedError
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.references import References

_sessions = st.sampled_from(["s1", "s2", "s3"])
_envs = st.sampled_from([digest_of(n) for n in range(4)])
_objects = st.lists(st.sampled_from([key(n) for n in range(5)]), max_size=3)
_Model = dict[str, dict[str, tuple[frozenset[ObjectKey], int]]]


class ReferencesMachine(RuleBasedStateMachine):
    """The model: session -> env -> (objects, count)."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="references-", dir=quick_folder()))
        self.model: _Model = {}

    @initialize()
    def open(self) -> None:
        self.references = References.open(self.folder)

    @rule(close=st.booleans())
    def restart(self, close: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        if close:
            self.references.close()
        self.references = References.open(self.folder)

    @rule()
    def copy_what_has_changed(self) -> None:
        """As :meth:`References.flush` does it after many changes, and some time later."""
        for name, session in self.references._sessions.items():
            age(self.folder / name / "envs")
            session.files.envs.copy(session.envs, last=True)

    @rule(session=_sessions)
    def start(self, session: str) -> None:
        self.references.start(session, {"name": session})
        self.model.setdefault(session, {})

    @rule(session=_sessions)
    def end(self, session: str) -> None:
        held = sum(count for _, count in self.model.pop(session, {}).values())
        assert self.references.end(session) == held

    @rule(session=_sessions, env=_envs, objects=_objects)
    def bind(self, session: str, env: str, objects: list[ObjectKey]) -> None:
        if session not in self.model:
            with pytest.raises(NotFoundError):
                self.references.bind(session, env, objects, {})
            return
        self.references.bind(session, env, objects, {"n": len(objects)})
        old, count = self.model[session].get(env, (frozenset(), 0))
        self.model[session][env] = (frozenset(objects) | (old if count else frozenset()), count)

    @rule(session=_sessions, env=_envs, times=st.integers(1, 3))
    def acquire(self, session: str, env: str, times: int) -> None:
        for _ in range(times):
            if env not in self.model.get(session, {}):
                with pytest.raises(NotFoundError):
                    self.references.acquire(session, env)
                continue
            objects, count = self.model[session][env]
            assert self.references.acquire(session, env) == count + 1
            self.model[session][env] = (objects, count + 1)

    @rule(session=_sessions, env=_envs, times=st.integers(1, 3))
    def release(self, session: str, env: str, times: int) -> None:
        for _ in range(times):
            objects, count = self.model.get(session, {}).get(env, (frozenset(), 0))
            if not count:
                with pytest.raises(NotReferencedError):
                    self.references.release(session, env)
                continue
            assert self.references.release(session, env) == count - 1
            self.model[session][env] = (objects, count - 1)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "references"):
            return
        users: dict[ObjectKey, int] = {}
        for session, envs in self.model.items():
            found = {
                env.env_digest: (frozenset(env.objects), env.count) for env in self.references.envs(session)
            }
            assert found == envs
            for objects, count in envs.values():
                for each in objects if count else ():
                    users[each] = users.get(each, 0) + 1
        assert {record.session_id for record in self.references.sessions()} == self.model.keys()
        assert self.references.total() == sum(c for envs in self.model.values() for _, c in envs.values())
        for number in range(5):
            assert self.references.object_count(key(number)) == users.get(key(number), 0)
            assert self.references.is_referenced(key(number)) == (key(number) in users)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


ReferencesMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestReferences = ReferencesMachine.TestCase
