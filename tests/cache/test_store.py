"""Objects come, are held, and go."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from shelf import ME, below, du, key, never, put

from ray_envd.cache import removal
from ray_envd.cache import store as store_module
from ray_envd.cache.errors import CorruptError, InUseError, NotFoundError
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.store import Store


def test_an_object_is_there_once_it_is_committed(store: Store) -> None:
    """It cannot be held while it is under construction, and comes back from the commit held once."""
    build = store.begin(key("a"), ME)
    (build.path / "file").write_bytes(b"x" * 10_000)
    assert store.get(key("a")) is None
    assert store.hold(key("a")) is None
    entry = store.commit(build, summary="a thing", build_seconds=2.5, details={"files": ["file"]})
    assert (entry.key, entry.path, entry.summary) == (key("a"), build.path, "a thing")
    assert (entry.build_seconds, entry.details, entry.uses) == (2.5, {"files": ["file"]}, 1)
    assert entry.size.apparent == du(build.path)
    assert abs(entry.created - time.time()) < 60
    assert store.is_held(key("a"))
    with pytest.raises(InUseError):
        store.evict(key("a"), never)


def test_a_build_starts_with_an_empty_folder_whatever_was_there(store: Store) -> None:
    """What a builder of before left at the final path is gone."""
    path = store.layout.object(key("a"))
    path.mkdir(parents=True)
    (path / "left-over").write_text("x")
    build = store.begin(key("a"), ME)
    assert build.path == path
    assert below(path) == []


def test_one_build_of_a_key_at_a_time(store: Store) -> None:
    """A second build of a key is refused while the first is under way, and once the object is there."""
    build = store.begin(key("a"), ME)
    with pytest.raises(InUseError):
        store.begin(key("a"), ME)
    store.begin(key("b"), ME)
    store.commit(build, summary="", build_seconds=0, details={})
    with pytest.raises(InUseError):
        store.begin(key("a"), ME)


def test_an_abandoned_build_leaves_nothing(store: Store) -> None:
    """Its folder is gone, and the key can be built again at once."""
    build = store.begin(key("a"), ME)
    (build.path / "half").write_text("x")
    store.abandon(build)
    store.abandon(build)
    assert not build.path.exists()
    assert below(store.user_dir(ME).trash) == []
    put(store, "a")


def test_ending_a_build_twice_does_not_hurt_the_object(store: Store) -> None:
    """A late abandon, or a second commit, finds its build ended."""
    build = store.begin(key("a"), ME)
    entry = store.commit(build, summary="", build_seconds=0, details={})
    store.abandon(build)
    with pytest.raises(InUseError):
        store.commit(build, summary="", build_seconds=0, details={})
    assert store.get(key("a")) == entry
    assert entry.path.is_dir()


def test_a_commit_without_a_folder_fails(store: Store) -> None:
    """A builder that removed its own folder, or put a link there, has made nothing."""
    gone = store.begin(key("a"), ME)
    gone.path.rmdir()
    link = store.begin(key("b"), ME)
    link.path.rmdir()
    link.path.symlink_to("/tmp")
    for build in (gone, link):
        with pytest.raises(CorruptError):
            store.commit(build, summary="", build_seconds=0, details={})
        store.abandon(build)
    assert store.entries() == []
    assert Path("/tmp").is_dir()


def test_what_cannot_be_written_as_json_is_no_object(store: Store, root: Path) -> None:
    """A commit that fails half-way publishes nothing, now or after a restart."""
    build = store.begin(key("a"), ME)
    with pytest.raises(TypeError):
        store.commit(build, summary="", build_seconds=0, details={"bad": object()})
    store.abandon(build)
    assert store.get(key("a")) is None
    store.close()
    assert Store.open(root).entries() == []


def test_holding_counts_uses_and_keeps_the_object(store: Store) -> None:
    """Every hold must be given back before the object may go."""
    put(store, "a")
    for _ in range(2):
        assert store.hold(key("a")) is not None
    entry = store.get(key("a"))
    assert entry is not None
    assert entry.uses == 3
    assert entry.last_used >= entry.created
    for _ in range(2):
        with pytest.raises(InUseError):
            store.evict(key("a"), never)
        store.unhold(key("a"))
    assert store.evict(key("a"), never) > 0
    with pytest.raises(InUseError):
        store.unhold(key("a"))


def test_a_use_of_several_objects_is_of_all_or_of_none(store: Store) -> None:
    """A reference is taken, and each counted as used, only if all are stored as they are meant."""
    generations = [put(store, name).generation for name in ("a", "b")]
    before = [entry.uses for entry in (store.get(key("a")), store.get(key("b"))) if entry]
    taken: list[str] = []
    assert not store.use([key("a"), key("c")], generations, lambda: taken.append("never"))
    assert not store.use([key("a"), key("b")], [generations[0], 99], lambda: taken.append("never"))
    assert store.use([key("a"), key("b")], generations, lambda: taken.append("both"))
    assert taken == ["both"]
    after = [entry.uses for entry in (store.get(key("a")), store.get(key("b"))) if entry]
    assert after == [uses + 1 for uses in before]


def test_no_object_goes_while_a_reference_to_it_is_taken(store: Store) -> None:
    """An eviction that comes meanwhile waits, and finds the reference."""
    generation = put(store, "a").generation
    referenced: list[ObjectKey] = []
    with ThreadPoolExecutor() as threads:

        def take() -> None:
            evictions.append(threads.submit(store.evict, key("a"), lambda each: each in referenced))
            assert not evictions[0].done()
            referenced.append(key("a"))

        evictions: list[Future[int]] = []
        assert store.use([key("a")], [generation], take)
        with pytest.raises(InUseError):
            evictions[0].result(timeout=10)
    assert store.get(key("a")) is not None


def test_eviction_frees_what_it_says_and_leaves_nothing(store: Store) -> None:
    """Folder, marker and links are gone, and the bytes with them."""
    entry = put(store, "a", size=100_000)
    store.link(digest_of("request"), key("a"), None)
    assert store.stored_bytes() == entry.size.apparent
    assert store.evict(key("a"), never) == entry.size.apparent
    assert store.stored_bytes() == 0
    assert store.get(key("a")) is None
    assert store.linked(digest_of("request")) is None
    assert not entry.path.exists()
    assert below(store.user_dir(ME).trash) == []
    assert [name for name in below(store.layout.markers) if name.endswith(".json")] == []
    with pytest.raises(NotFoundError):
        store.evict(key("a"), never)


def test_what_is_referenced_or_pinned_or_built_is_not_evicted(store: Store) -> None:
    """Each reason alone is enough."""
    put(store, "a")
    with pytest.raises(InUseError, match="in use"):
        store.evict(key("a"), lambda asked: asked == key("a"))
    store.pin(key("a"))
    with pytest.raises(InUseError, match="pinned"):
        store.evict(key("a"), never)
    store.begin(key("b"), ME)
    with pytest.raises(InUseError, match="built"):
        store.evict(key("b"), never)
    store.unpin(key("a"))
    store.evict(key("a"), never)


def test_an_object_whose_files_the_user_removed_can_be_evicted(store: Store) -> None:
    """Nothing was there, so nothing is freed."""
    entry = put(store, "a")
    (entry.path / "content").unlink()
    entry.path.rmdir()
    assert store.evict(key("a"), never) == 0
    assert store.entries() == []


def test_an_object_that_cannot_be_unpublished_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the marker cannot be removed the object is as it was, links and all."""
    entry = put(store, "a")
    store.link(digest_of("r"), key("a"), None)

    def fail(_key: ObjectKey) -> None:
        raise OSError(5, "no such luck")

    monkeypatch.setattr(store._markers, "remove", fail)
    with pytest.raises(OSError, match="luck"):
        store.evict(key("a"), never)
    monkeypatch.undo()
    assert store.get(key("a")) == entry
    assert store.linked(digest_of("r")) is not None
    assert store.evict(key("a"), never) == entry.size.apparent


def test_a_build_waits_for_the_object_of_its_key_to_leave(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an eviction is between marker and trash, a build of the key does not start in its folder."""
    put(store, "a")
    reached, go_on, begun = threading.Event(), threading.Event(), threading.Event()
    original = removal.to_trash

    def slow(path: Path, trash: Path) -> Path | None:
        reached.set()
        assert go_on.wait(10)
        return original(path, trash)

    monkeypatch.setattr(store_module, "to_trash", slow)
    evicting = threading.Thread(target=store.evict, args=(key("a"), never))
    evicting.start()
    assert reached.wait(10)
    monkeypatch.setattr(store_module, "to_trash", original)
    assert store.hold(key("a")) is None

    def build() -> None:
        new = store.begin(key("a"), ME)
        (new.path / "new").write_text("x")
        store.commit(new, summary="new", build_seconds=0, details={})
        begun.set()

    building = threading.Thread(target=build)
    building.start()
    assert not begun.wait(0.2)
    go_on.set()
    evicting.join(10)
    building.join(10)
    entry = store.get(key("a"))
    assert entry is not None
    assert below(entry.path) == ["new"]
