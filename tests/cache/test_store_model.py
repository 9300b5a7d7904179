"""The store against a model, with restarts at any moment."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import quick_folder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from shelf import ME, below, key, kill

from ray_envd.cache.collect import collect
from ray_envd.cache.errors import InUseError, NotFoundError
from ray_envd.cache.gc import Limits
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.references import References
from ray_envd.cache.store import Build, Store

_names = st.sampled_from([key(n, kind) for n in range(3) for kind in ("pip", "archive")])
_requests = st.sampled_from([digest_of("request", n) for n in range(3)])


@dataclass
class _Object:
    content: bytes
    generation: int
    pinned: bool = False
    holds: int = 0
    references: int = 0


@dataclass
class _Model:
    objects: dict[ObjectKey, _Object] = field(default_factory=dict)
    building: dict[ObjectKey, Build] = field(default_factory=dict)
    links: dict[str, ObjectKey] = field(default_factory=dict)
    damaged: set[tuple[ObjectKey, int]] = field(default_factory=set)

    def drop(self, gone: ObjectKey) -> None:
        del self.objects[gone]
        self.links = {request: target for request, target in self.links.items() if target != gone}


class StoreMachine(RuleBasedStateMachine):
    """Objects, builds, links, pins, holds and references; each object is referenced through its own env."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-", dir=quick_folder()))
        self.model = _Model()

    @initialize()
    def open(self) -> None:
        self.store = Store.open(self.root)
        self.references = References.open(self.store.layout.sessions)
        self.references.start("s", {})

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        if orderly:
            self.references.close()
            self.store.close()
        else:
            kill(self.store)
        self.store = Store.open(self.root)
        self.references = References.open(self.store.layout.sessions)
        self.store.sweep()
        dirs = self.store.user_dir(ME)
        assert below(dirs.trash) == below(dirs.staging) == []
        self.model.building.clear()
        for each in self.model.objects.values():
            each.holds = 0

    @rule(name=_names)
    def begin(self, name: ObjectKey) -> None:
        if name in self.model.objects or name in self.model.building:
            with pytest.raises(InUseError):
                self.store.begin(name, ME)
            return
        build = self.store.begin(name, ME)
        assert below(build.path) == []
        (build.path / "content").write_bytes(name.digest.encode())
        self.model.building[name] = build

    @rule(name=_names)
    def commit(self, name: ObjectKey) -> None:
        build = self.model.building.pop(name, None)
        if build is None:
            return
        entry = self.store.commit(build, summary=name.id, build_seconds=1.0, details={"of": name.digest})
        assert self.store.is_held(name)
        self.model.objects[name] = _Object(name.digest.encode(), build.generation, holds=1)
        assert entry.path == build.path

    @rule(name=_names)
    def abandon(self, name: ObjectKey) -> None:
        build = self.model.building.pop(name, None)
        if build is not None:
            self.store.abandon(build)
            assert not build.path.exists()

    @rule(name=_names)
    def hold(self, name: ObjectKey) -> None:
        found = self.model.objects.get(name)
        assert (self.store.hold(name) is not None) == (found is not None)
        if found is not None:
            found.holds += 1

    @rule(name=_names)
    def unhold(self, name: ObjectKey) -> None:
        found = self.model.objects.get(name)
        if found is None or not found.holds:
            with pytest.raises(InUseError):
                self.store.unhold(name)
        else:
            self.store.unhold(name, found.generation)
            found.holds -= 1

    @rule(name=_names)
    def condemn(self, name: ObjectKey) -> None:
        found = self.model.objects.get(name)
        if found is None or found.holds or found.references:
            return  # who still stands on it is test_damage.py's matter
        self.store.condemn(name, "broken")
        self.model.drop(name)
        self.model.damaged.add((name, found.generation))

    @rule(name=_names, pinned=st.booleans())
    def pin(self, name: ObjectKey, pinned: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        change = self.store.pin if pinned else self.store.unpin
        if name in self.model.objects:
            change(name)
            self.model.objects[name].pinned = pinned
        else:
            with pytest.raises(NotFoundError):
                change(name)

    @rule(name=_names)
    def acquire(self, name: ObjectKey) -> None:
        if name in self.model.objects:
            self.references.bind("s", digest_of(name.id), [name], {})
            self.references.acquire("s", digest_of(name.id))
            self.model.objects[name].references += 1

    @rule(name=_names)
    def release(self, name: ObjectKey) -> None:
        found = self.model.objects.get(name)
        if found is not None and found.references:
            self.references.release("s", digest_of(name.id))
            found.references -= 1

    @rule(request=_requests, name=_names)
    def link(self, request: str, name: ObjectKey) -> None:
        if name in self.model.objects:
            self.store.link(request, name, None)
            self.model.links[request] = name
        else:
            with pytest.raises(NotFoundError):
                self.store.link(request, name, None)

    @rule(name=_names)
    def evict(self, name: ObjectKey) -> None:
        found = self.model.objects.get(name)
        if found is None:
            with pytest.raises((NotFoundError, InUseError)):
                self.store.evict(name, self.references.is_referenced)
        elif found.pinned or found.holds or found.references:
            with pytest.raises(InUseError):
                self.store.evict(name, self.references.is_referenced)
        else:
            assert self.store.evict(name, self.references.is_referenced) > 0
            self.model.drop(name)

    @rule()
    def collect(self) -> None:
        done = collect(self.store, self.references, Limits(), now=4e9, target=0)
        free = {n for n, o in self.model.objects.items() if not (o.pinned or o.holds or o.references)}
        whole = {victim.entry.key for victim in done.victims if not victim.entry.damaged}
        assert whole == free
        self.model.damaged -= {(v.entry.key, v.entry.generation) for v in done.victims if v.entry.damaged}
        busy = {n for n, o in self.model.objects.items() if o.holds or o.references}
        assert {key for key, _ in self.model.damaged} <= busy
        for name in free:
            self.model.drop(name)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        found = self.store.entries()
        entries = {entry.key: entry for entry in found if not entry.damaged}
        damaged = {(entry.key, entry.generation) for entry in found if entry.damaged}
        assert damaged == self.model.damaged
        assert entries.keys() == self.model.objects.keys()
        for name, each in self.model.objects.items():
            entry = entries[name]
            assert (entry.path / "content").read_bytes() == each.content
            assert (entry.pinned, entry.details) == (each.pinned, {"of": name.digest})
            assert self.store.is_held(name) == (each.holds > 0)
            assert self.references.is_referenced(name) == (each.references > 0)
        assert self.store.stored_bytes() == sum(entry.size.apparent for entry in found)
        for number in range(3):
            link = self.store.linked(digest_of("request", number))
            target = self.model.links.get(digest_of("request", number))
            assert (link.key if link else None) == target

    def teardown(self) -> None:
        kill(self.store)
        shutil.rmtree(self.root)


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = StoreMachine.TestCase
