"""What is kept about objects: pins, uses, links from requests, their ids; and whose they are."""

import os
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shelf import ME, key, kill, never, put

from ray_envd.cache.errors import AmbiguousError, NotFoundError
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.markers import MarkerName
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store


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
