"""A large store made quickly: many small objects, and sessions that reference them.

One object is built and committed as any other; the rest are folders of the same form with copies of its
marker, since a marker does not say whose it is. Sessions and references are made as they always are.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ray_envd.agent.envs import ReadyEnv, record_of
from ray_envd.agent.sessions import process_start
from ray_envd.agent.spec import digest_of_serialized
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner
from ray_envd.cache.references import References
from ray_envd.cache.store import Store

KIND = "python"
_SESSIONS = 10
_CONTENT = "version = 3.11.2\n"
_SUMMARY = "requests==2.32.3 and 14 more for CPython 3.11.2"
_PACKAGES = [f"some-package-{number}=={number}.{number % 7}.2" for number in range(15)]


@dataclass(frozen=True, slots=True)
class LargeStore:
    """What is in a generated store.

    Attributes:
        root: its folder.
        objects: all of one kind and of the daemon's own user.
        envs: of all sessions; each stands on one object, in their order.
        references: of all of them.
        sessions: their names.
    """

    root: Path
    objects: int
    envs: int
    references: int
    sessions: tuple[str, ...]

    def key(self, number: int) -> ObjectKey:
        """The key of an object, by its number from 0."""
        return ObjectKey(Owner.current().uid, KIND, digest_of(f"object {number}"))

    def serialized(self, number: int) -> str:
        """The runtime env that stands on an object, as Ray would serialize it."""
        return json.dumps({"pip": {"packages": [*_PACKAGES, f"one-more=={number}"]}})

    def session_of(self, number: int) -> str:
        """The session in which it is referenced, as its link names it."""
        return self.sessions[number % len(self.sessions)]

    def session_id(self, name: str) -> str:
        """The session as the daemon names it."""
        return f"{Owner.current().uid}-{name}"


def make_large_store(root: Path, *, objects: int, envs: int, references: int) -> LargeStore:
    """Makes a store in a folder that is not there yet.

    The sessions' raylet is this process: they last as long as it does.

    Args:
        root: the store.
        objects: how many.
        envs: how many of them have an env that stands on them, in one of the sessions.
        references: how many in all; each env has the same number.
    """
    names = tuple(f"session-{number}" for number in range(_SESSIONS))
    made = LargeStore(root, objects, envs, references, names)
    store = Store.open(root)
    try:
        _make_objects(store, made)
        _reference(References.open(store.layout.sessions), made)
    finally:
        store.close()
    return made


def _make_objects(store: Store, made: LargeStore) -> None:
    build = store.begin(made.key(0), Owner.current())
    (build.path / "pyvenv.cfg").write_text(_CONTENT)
    details = {"packages": _PACKAGES}
    store.unhold(store.commit(build, summary=_SUMMARY, build_seconds=1.5, details=details).key)
    (marker,) = store.layout.markers.rglob("*.json")
    content = marker.read_bytes()
    for number in range(1, made.objects):
        digest = made.key(number).digest
        folder = build.path.with_name(digest)
        folder.mkdir()
        (folder / "pyvenv.cfg").write_text(_CONTENT)
        marker.with_name(f"{digest}.json").write_bytes(content)


def _reference(references: References, made: LargeStore) -> None:
    pid = os.getpid()
    raylet = {"raylet_pid": pid, "raylet_start": process_start(pid), "raylet_visible": True}
    for name in made.sessions:
        references.start(made.session_id(name), raylet)
    for number in range(made.envs):
        name, digest = made.session_id(made.session_of(number)), digest_of_serialized(made.serialized(number))
        references.bind(name, digest, [made.key(number)], record_of(_ready_env(made, number)))
        for _ in range(made.references // made.envs):
            references.acquire(name, digest)
    references.close()


def _ready_env(made: LargeStore, number: int) -> ReadyEnv:
    key = made.key(number)
    python = made.root / f"users/{key.owner}/objects-v1/{key.kind}/{key.digest}/bin/python"
    context = {
        "command_prefix": [".", f"/tmp/ray/session/runtime_resources/ray-envd/{key.digest}.sh", "&&"],
        "env_vars": {"VIRTUAL_ENV": str(python.parent.parent)},
        "py_executable": str(python),
        "override_worker_entrypoint": None,
        "java_jars": [],
    }
    return ReadyEnv(
        context=json.dumps(context),
        objects=(key,),
        fields=("pip",),
        generations=(0,),
        trees=(),
        runtime_env=made.serialized(number),
        creation_ms=1500,
    )
