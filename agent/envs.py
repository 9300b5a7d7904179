"""The envs of a session: which are ready, which failed and for how long that counts, which nobody uses."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_envd.agent.errors import DrainingError, EnvError, Retry
from ray_envd.cache.keys import ObjectKey

#: Seconds for which a failure that may pass is remembered: long enough to spare a retry storm.
_TRANSIENT_TTL = 5.0
_MOST_FAILURES = 1000
_MOST_IDLE = 1000  # ready envs that nobody uses
_MOST_TOLD = 10_000  # (job, env) pairs that are known to have been told of a reuse


@dataclass(frozen=True, slots=True)
class ReadyEnv:
    """An env that a session can be given at once.

    Attributes:
        context: Ray's JSON.
        objects: what must stay in the store while a worker uses it.
        fields: for each of the objects, the field that brought it.
        generations: for each of the objects, the generation that the context names.
        trees: folders of the session that must stay meanwhile.
        runtime_env: masked, for people.
        creation_ms: how long its preparation took.
        built: something had to be fetched or built for it.
    """

    context: str
    objects: tuple[ObjectKey, ...]
    fields: tuple[str, ...]
    generations: tuple[int, ...]
    trees: tuple[str, ...]
    runtime_env: str
    creation_ms: int
    built: bool = False


@dataclass(frozen=True, slots=True)
class EnvState:
    """One row of ``ray list runtime-envs``."""

    runtime_env: str
    references: int
    success: bool | None = None
    error: str | None = None
    creation_ms: int | None = None


def record_of(env: ReadyEnv) -> dict[str, Any]:
    """What is kept of an env on disk; the context holds no values of env_vars but unusual ones."""
    return {
        "fields": list(env.fields),
        "generations": list(env.generations),
        "context": env.context,
        "trees": list(env.trees),
        "runtime_env": env.runtime_env,
        "creation_ms": env.creation_ms,
    }


def recorded(objects: tuple[ObjectKey, ...], summary: Mapping[str, Any]) -> ReadyEnv | None:
    """A ready env as an earlier daemon left it; None if an older one did not say all."""
    try:
        json.loads(summary["context"])
        return ReadyEnv(
            context=summary["context"],
            objects=tuple(objects),
            fields=tuple(summary["fields"]),
            # Earlier daemons knew of one only.
            generations=tuple(summary.get("generations", [0] * len(objects))),
            trees=tuple(summary["trees"]),
            runtime_env=summary["runtime_env"],
            creation_ms=int(summary["creation_ms"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class _Failure:
    error: EnvError
    runtime_env: str
    until: float
    creation_ms: int


class SessionEnvs:
    """What is known of one session's envs, by env digest; bounded, since a session may live for months.

    Attributes:
        ready: those that can be given at once.
    """

    def __init__(self, failure_ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A lasting failure is remembered for so many seconds of the clock."""
        self._clock = clock
        self.ready: dict[str, ReadyEnv] = {}
        self._failure_ttl = failure_ttl
        self._failures: dict[str, _Failure] = {}
        self._idle: dict[str, None] = {}
        self._told: set[tuple[str, str]] = set()

    def add(self, digest: str, env: ReadyEnv) -> None:
        """An env is ready; what it failed with before is history."""
        self.ready[digest] = env
        self._failures.pop(digest, None)

    def tell(self, job_id: str, digest: str) -> bool:
        """Notes that a job knows of an env; whether it did not yet."""
        if (job_id, digest) in self._told:
            return False
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add((job_id, digest))
        return True

    def used(self, digest: str) -> None:
        """An env has a reference."""
        self._idle.pop(digest, None)

    def unused(self, digest: str) -> tuple[str, ReadyEnv | None] | None:
        """An env has no reference any more; returns an env to forget, if there are too many such."""
        self._idle[digest] = None
        if len(self._idle) <= _MOST_IDLE:
            return None
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        return oldest, self.ready.pop(oldest, None)

    def fail(self, digest: str, runtime_env: str, error: EnvError, started: float) -> None:
        """Keeps a failure from being tried again at once. Stock remembers each for ten minutes.

        Args:
            digest: of the env.
            runtime_env: masked, for people.
            error: what it failed with.
            started: when its preparation began, on the clock.
        """
        if isinstance(error, DrainingError):
            return
        while len(self._failures) >= _MOST_FAILURES:
            del self._failures[next(iter(self._failures))]
        lasting = error.retry is Retry.PERMANENT
        ttl = self._failure_ttl if lasting else min(_TRANSIENT_TTL, self._failure_ttl)
        now = self._clock()
        self._failures[digest] = _Failure(error, runtime_env, now + ttl, round((now - started) * 1000))

    def raise_known(self, digest: str) -> None:
        """Raises what an env failed with, for as long as that counts."""
        failure = self._failures.get(digest)
        if failure is None:
            return
        if failure.until > self._clock():
            raise failure.error
        del self._failures[digest]

    def states(self, count: Callable[[str], int]) -> list[EnvState]:
        """Every env as it is shown; ``count`` gives an env's references."""
        states = {
            digest: EnvState(env.runtime_env, count(digest), True, None, env.creation_ms)
            for digest, env in self.ready.items()
        }
        now = self._clock()
        for digest, failure in self._failures.items():
            if failure.until > now:
                text = str(failure.error)
                states[digest] = EnvState(failure.runtime_env, 0, False, text, failure.creation_ms)
        return list(states.values())
