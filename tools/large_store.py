"""A large store made quickly: many small objects, and sessions that reference them.

One object is built and committed as any other; the rest are folders of the same form with copies of its
marker, since a marker does not say whose it is. Sessions and references are made as they always are.
"""

import json
import os
import shutil
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
_SUMMARY = "requests==2.32.3 and 14 more for CPython 3.11.2"
_PACKAGES = [f"some-package-{number}=={number}.{number % 7}.2" for number in range(15)]


@dataclass(frozen=True, slots=True)
class LargeStore:
    """What is in a generated store.

    Attributes:
        root: its folder.
        objects: all of one kind and of the daemon's own user.
        envs: of all sessions; each stands on one object.
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
        """The session in which it is referenced."""
        return self.sessions[number % len(self.sessions)]


def make_large_store(root: Path, *, objects: int, references: int = 0, sessions: int = 10) -> LargeStore:
    """Makes a store in a folder that is not there yet; every object is referenced, in one of the sessions.

    The sessions' raylet is this process: they last as long as it does.

    Args:
        root: the store.
        objects: how many.
        references: how many in all, the same number for each object; 0 for a store without sessions.
        sessions: over how many sessions the objects are spread.
    """
    names = tuple(f"session-{number}" for number in range(sessions if references else 0))
    made = LargeStore(root, objects, objects if references else 0, references, names)
    store = Store.open(root)
    try:
        _make_objects(store, made)
        if references:
            _reference(References.open(store.layout.sessions), made)
    finally:
        store.close()
    return made


def _make_objects(store: Store, made: LargeStore) -> None:
    build = store.begin(made.key(0), Owner.current())
    (build.path / "pyvenv.cfg").write_text("version = 3.11.2\n")
    (build.path / "bin").mkdir()
    details = {"packages": _PACKAGES}
    store.unhold(store.commit(build, summary=_SUMMARY, build_seconds=1.5, details=details).key)
    (marker,) = store.layout.markers.rglob("*.json")
    for number in range(1, made.objects):
        digest = made.key(number).digest
        shutil.copytree(build.path, build.path.with_name(digest))
        shutil.copyfile(marker, marker.with_name(f"{digest}.json"))


def _reference(references: References, made: LargeStore) -> None:
    pid = os.getpid()
    raylet = {"raylet_pid": pid, "raylet_start": process_start(pid), "raylet_visible": True}
    for name in made.sessions:
        references.start(name, raylet)
    for number in range(made.envs):
        name, digest = made.session_of(number), digest_of_serialized(made.serialized(number))
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
