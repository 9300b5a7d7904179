"""The envs of a session: one that is ready, how it is written down, and how it is shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_envd.cache.keys import ObjectKey


@dataclass(frozen=True, slots=True)
class ReadyEnv:
    """An env that a session can be given at once.

    Attributes:
        context: Ray's JSON.
        objects: what must stay in the store while a worker uses it.
        fields: for each of the objects, the field that brought it.
        trees: folders of the session that must stay meanwhile.
        runtime_env: masked, for people.
        creation_ms: how long its preparation took.
        built: something had to be fetched or built for it.
    """

    context: str
    objects: tuple[ObjectKey, ...]
    fields: tuple[str, ...]
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
            trees=tuple(summary["trees"]),
            runtime_env=summary["runtime_env"],
            creation_ms=int(summary["creation_ms"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
