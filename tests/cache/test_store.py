import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from shelf import ME, below, du, key, kill, never, put

from ray_envd.cache import removal
from ray_envd.cache import store as store_module
from ray_envd.cache.errors import AmbiguousError, CorruptError, InUseError, NotFoundError
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.markers import MarkerName
from ray_envd.cache.owner import Owner
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


def test_pins_and_uses_are_there_after_a_restart(store: Store, root: Path) -> None:
    """A pin is on disk at once, uses once they are flushed."""
    put(store, "a")
    put(store, "b")
    store.pin(key("a"))
    store.hold(key("b"))
    store.flush()
    before = store.get(key("b"))
    kill(store)
    again = Store.open(root)
    pinned, used = again.get(key("a")), again.get(key("b"))
    assert pinned is not None
    assert pinned.pinned
    assert used == before
    assert not again.is_held(key("b"))
    again.close()


def test_pinning_does_not_count_as_a_use(store: Store) -> None:
    """Looking after an object is not using it."""
    before = put(store, "a")
    store.pin(key("a"))
    after = store.get(key("a"))
    assert after is not None
    assert (after.uses, after.last_used, after.pinned) == (before.uses, before.last_used, True)
    with pytest.raises(NotFoundError):
        store.pin(key("b"))


def test_links_last_as_long_as_their_object(store: Store, root: Path) -> None:
    """They are persisted, replaced, kept when expired, and refused without an object."""
    put(store, "a")
    put(store, "b")
    request = digest_of("request")
    store.link(request, key("a"), 17.5)
    store.link(request, key("b"), 18.5)
    store.close()
    again = Store.open(root)
    link = again.linked(request)
    assert link is not None
    assert (link.key, link.expires) == (key("b"), 18.5)
    again.evict(key("a"), never)
    assert again.linked(request) == link
    again.evict(key("b"), never)
    assert again.linked(request) is None
    with pytest.raises(NotFoundError):
        again.link(request, key("b"), None)
    again.close()


def test_a_link_that_moved_on_does_not_go_with_its_first_object(store: Store) -> None:
    """A request that now leads to another object keeps doing so when the first one is evicted."""
    put(store, "a")
    put(store, "b")
    store.link(digest_of("request"), key("a"), None)
    store.link(digest_of("request"), key("b"), None)
    store.evict(key("a"), never)
    link = store.linked(digest_of("request"))
    assert link is not None
    assert link.key == key("b")


def test_pins_and_unpins_at_once_leave_memory_and_disk_agreed(store: Store, root: Path) -> None:
    """Whoever comes last decides for both."""
    put(store, "a")
    start = threading.Barrier(2)

    def change(method: Callable[[ObjectKey], None]) -> None:
        start.wait(10)
        for _ in range(40):
            method(key("a"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(change, (store.pin, store.unpin)))
    finally:
        sys.setswitchinterval(interval)
    found = store.get(key("a"))
    assert found is not None
    assert store._markers.read(MarkerName(key("a"))).pinned == found.pinned
    assert not store.is_held(key("a"))


def test_a_pin_that_cannot_be_written_changes_nothing(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old marker stays whole until the new one is on disk."""
    before = put(store, "a")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="space"):
            store.pin(key("a"))
    assert store.get(key("a")) == before
    kill(store)
    again = Store.open(root)
    assert [entry.pinned for entry in again.entries()] == [False]
    again.close()


def test_users_do_not_see_one_anothers_links(store: Store) -> None:
    """The same request of another user leads nowhere, least of all to the first one's object."""
    put(store, "a")
    store.link(digest_of("request"), key("a"), None)
    assert store.linked(digest_of("request"), ME.uid) is not None
    assert store.linked(digest_of("request"), ME.uid + 1) is None


def test_links_of_one_object_are_bounded(store: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, in memory and on disk."""
    monkeypatch.setattr("ray_envd.cache.objects._MOST_LINKS", 3)
    put(store, "a")
    for number in range(5):
        store.link(digest_of(number), key("a"), None)
    kill(store)
    again = Store.open(root)
    for opened in (store, again):
        assert [opened.linked(digest_of(n)) is not None for n in range(5)] == [False, False, True, True, True]
    again.close()


def test_objects_are_found_by_the_beginning_of_their_id(store: Store) -> None:
    """With or without the kind, of one user or of all; never a guess."""
    first = ObjectKey(ME.uid, "pip", "aaaa1111")
    second = ObjectKey(ME.uid, "pip", "aaaa2222")
    third = ObjectKey(ME.uid, "archive", "aaaa1111")
    for each in (first, second, third):
        build = store.begin(each, ME)
        store.commit(build, summary="", build_seconds=0, details={})
    assert store.find("pip/aaaa1").key == first
    assert store.find("aaaa2").key == second
    assert store.find(third.id).key == third
    assert store.find("aaaa2", owner=ME.uid).key == second
    for several in ("aaaa", "aaaa1111", "pip/a"):
        with pytest.raises(AmbiguousError):
            store.find(several)
    for nothing in ("b", "", "pip/", "uv/aaaa1", "ip/aaaa1"):
        with pytest.raises(NotFoundError):
            store.find(nothing)
    with pytest.raises(NotFoundError):
        store.find("aaaa2", owner=ME.uid + 1)


def test_a_users_folders_are_his_alone(store: Store) -> None:
    """Made on first use, private, and made again when he removes one."""
    dirs = store.user_dir(ME)
    dirs.staging.rmdir()
    assert store.user_dir(ME) == dirs
    for folder in (dirs.root, dirs.objects, dirs.staging, dirs.trash, dirs.logs, dirs.uv_cache):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.owners() == [(ME.uid, ME.gid)]
    assert stat.S_IMODE(store.layout.markers.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.layout.users.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def test_a_set_gid_folder_above_the_store_does_no_harm(store: Store) -> None:
    """A daemon that is not root cannot act with another group than its own, and need not."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a folder away")
    os.chown(store.user_dir(ME).root, ME.uid, 65534)
    assert store.owners() == [(ME.uid, ME.gid)]
    assert store.layout.owner(ME.uid).is_current


def test_a_key_of_another_user_is_not_built(store: Store) -> None:
    """The folder and the identity that fills it are the same user's."""
    with pytest.raises(ValueError, match="not for uid"):
        store.begin(key("a"), Owner(ME.uid + 1, ME.gid))
