"""What a model of the manager knows: who holds what, who waits; each answer is compared with it."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import quick_folder
from stepped_world import (
    DIGEST,
    ENVS,
    FAILURE_TTL,
    FAILURES,
    INTERVAL,
    LASTING,
    MOST_IDLE,
    PASSING,
    PASSING_TTL,
    RETRIES,
    SERIALIZED,
    TIMED_OUT,
    key,
)

from ray_envd.agent.http import HANG_UP, Request, Response
from ray_envd.agent.pb import runtime_env_pb2 as pb
from ray_envd.agent.raylet_http import RayletFace
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner


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


def created(answer: Response) -> Any:
    return pb.GetOrCreateRuntimeEnvReply.FromString(answer.body)


class Model:
    """How many references each env has in each session, and which requests are unanswered."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="manager-", dir=quick_folder()))
        self.lives = {"s": Life(), "t": Life()}
        self.asked: list[Asked] = []
        self.told: set[tuple[str, str]] = set()  # (object, failure) that a build was told

    # what can be done

    def _attach(self, name: str) -> None:
        self._hang_up(name)
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        chosen = SessionSettings(RETRIES, INTERVAL, FAILURE_TTL)
        session = Session(name, Owner.current(), "/ray/python", {}, folder, settings=chosen)
        self._turn(name, session, self.world.manager.uses.start(session))

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
            assert created(task.result()).status == pb.AGENT_RPC_STATUS_OK
        elif known is not None and now < known[1] and task.done():
            assert self.world.installer.begun == begun
        elif known is not None and now < known[1]:
            raise AssertionError("a known failure was tried again")

    async def _answer(self, session: Session, call: str, message: Any) -> Response:
        path = {"get_or_create": "/get_or_create_runtime_env", "delete": "/delete_runtime_env_if_possible"}
        face = RayletFace(session, self.world.manager)
        answer = face(Request("POST", path[call], {}, message.SerializeToString()))
        return answer if isinstance(answer, Response) else await answer

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

    # what comes of it

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
        reply = created(answer)
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
