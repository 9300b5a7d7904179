import logging
import os
import time

import pytest
from shelf import ME, key, put

from ray_envd.cache.collect import collect
from ray_envd.cache.errors import InUseError
from ray_envd.cache.gc import Limits
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.markers import MarkerName
from ray_envd.cache.references import References
from ray_envd.cache.store import Store

SOON = time.time() + 1000


def test_collection_frees_what_nobody_uses(store: Store, references: References) -> None:
    """Referenced, held and pinned objects stay; the rest goes and the bytes are accounted for."""
    entries = {name: put(store, name, size=50_000) for name in ("referenced", "held", "pinned", "one", "two")}
    references.start("s", {})
    references.bind("s", digest_of("env"), [entries["referenced"].key], {})
    references.acquire("s", digest_of("env"))
    store.hold(entries["held"].key)
    store.pin(entries["pinned"].key)
    done = collect(store, references, Limits(), now=SOON, target=0, uv_cache_bytes=7)
    assert {victim.entry.key for victim in done.victims} == {key("one"), key("two")}
    assert done.freed_bytes == entries["one"].size.apparent + entries["two"].size.apparent
    assert done.remaining_bytes == store.stored_bytes() + 7
    assert store.stored_bytes() == sum(entry.size.apparent for entry in store.entries())
    assert {entry.summary for entry in store.entries()} == {"referenced", "held", "pinned"}
    references.release("s", digest_of("env"))
    assert len(collect(store, references, Limits(), now=SOON, target=0).victims) == 1


def test_a_dry_run_changes_nothing_and_tells_the_truth(store: Store, references: References) -> None:
    """What it shows is what a real run then does."""
    for name in range(4):
        put(store, name)
    limits = Limits(high_bytes=0)
    shown = collect(store, references, limits, now=SOON, dry_run=True)
    assert len(store.entries()) == 4
    done = collect(store, references, limits, now=SOON)
    assert [v.entry.key for v in done.victims] == [v.entry.key for v in shown.victims]
    assert (done.freed_bytes, done.remaining_bytes) == (shown.freed_bytes, shown.remaining_bytes)
    assert store.entries() == []


def test_what_comes_into_use_after_the_plan_stays(
    store: Store, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again at the last moment; the others still go."""
    for name in range(3):
        put(store, name)
    references.start("s", {})
    references.bind("s", digest_of("env"), [key(1)], {})
    original = store.evict

    def evict(victim: ObjectKey, is_referenced: object) -> int:
        if not references.count("s", digest_of("env")):
            references.acquire("s", digest_of("env"))
        return original(victim, is_referenced)  # type: ignore[arg-type]  # only passed on

    monkeypatch.setattr(store, "evict", evict)
    done = collect(store, references, Limits(), now=SOON, target=0)
    assert {victim.entry.key for victim in done.victims} == {key(0), key(2)}
    assert [entry.key for entry in store.entries()] == [key(1)]


def test_one_object_that_cannot_be_deleted_does_not_keep_the_others(
    store: Store,
    references: References,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged and not counted."""
    for name in range(3):
        put(store, name)
    original = store._markers.remove

    def remove(victim: MarkerName) -> None:
        if victim.key == key(0):
            raise OSError(5, "input/output error")
        original(victim)

    monkeypatch.setattr(store._markers, "remove", remove)
    with caplog.at_level(logging.WARNING):
        done = collect(store, references, Limits(), now=SOON, target=0)
    assert {victim.entry.key for victim in done.victims} == {key(1), key(2)}
    assert "could not be deleted" in caplog.text
    monkeypatch.undo()
    with pytest.raises(InUseError):
        store.begin(key(0), ME)


def test_damaged_objects_are_collected_once_nobody_stands_on_them(
    store: Store, references: References
) -> None:
    """Without any limit; what was built in the place of one stays, and so does one that is referenced."""
    for name in ("unused", "referenced"):
        put(store, name, size=50_000)
        store.condemn(key(name), "a flipped bit")
    built_anew = put(store, "unused")
    references.start("s", {})
    references.bind("s", digest_of("env"), [key("referenced")], {})
    references.acquire("s", digest_of("env"))
    done = collect(store, references, Limits(), now=SOON)
    assert [(victim.entry.key, victim.entry.generation) for victim in done.victims] == [(key("unused"), 0)]
    assert done.freed_bytes >= 50_000
    assert store.get(key("unused")) == built_anew
    assert built_anew.path.is_dir()
    references.release("s", digest_of("env"))
    assert [v.entry.key for v in collect(store, references, Limits(), now=SOON).victims] == [
        key("referenced")
    ]


def test_files_that_two_share_are_freed_with_the_second(store: Store, references: References) -> None:
    """Until then the reply says so: what a plan promises is what the disk gets back."""
    shared = store.user_dir(ME).staging / "wheel"
    shared.write_bytes(b"x" * 400_000)
    for name in range(3):
        build = store.begin(key(name), ME)
        os.link(shared, build.path / "wheel")
        store.commit(build, summary=str(name), build_seconds=1.0, details={})
        store.unhold(key(name))
    shared.unlink()
    store.refresh_units()
    assert 400_000 <= store.stored_bytes() < 450_000
    shown = collect(store, references, Limits(), now=SOON, target=0, dry_run=True)
    assert [victim.frees > 400_000 for victim in shown.victims] == [False, False, True]
    assert collect(store, references, Limits(), now=SOON, target=300_000).freed_bytes == shown.freed_bytes
    assert store.stored_bytes() == 0
