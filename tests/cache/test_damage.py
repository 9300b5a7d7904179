"""Objects that are found damaged: out of service at once, and never from under a worker's feet."""

from pathlib import Path

import pytest
from shelf import ME, key, kill, never, put

from ray_envd.cache.errors import InUseError, NotFoundError
from ray_envd.cache.keys import digest_of
from ray_envd.cache.store import Store


def test_a_condemned_object_is_not_handed_out_and_keeps_its_files(store: Store) -> None:
    """Who asks for the key builds it anew, elsewhere, while workers go on with the old files."""
    old = put(store, "a")
    store.link(digest_of("request"), old.key, None)
    condemned = store.condemn(old.key, "a bit has flipped")
    assert (condemned.damaged, condemned.id) == ("a bit has flipped", f"{old.key.id}.0")
    assert store.hold(old.key) is None
    assert store.get(old.key) is None
    assert store.linked(digest_of("request")) is None
    assert (old.path / "content").exists()
    new = put(store, "a")
    assert (new.generation, new.path.name) == (1, f"{old.key.digest}.1")
    assert store.find(old.key.digest).path == new.path
    assert store.find(condemned.id).path == old.path


def test_what_was_condemned_survives_restarts_as_damaged(store: Store, root: Path) -> None:
    """The next daemon does not hand it out either, and knows why; a rebuilt one is whole."""
    put(store, "a")
    store.condemn(key("a"), "broken")
    new = put(store, "a")
    kill(store)
    again = Store.open(root)
    assert {(entry.generation, entry.damaged) for entry in again.entries()} == {(0, "broken"), (1, "")}
    held = again.hold(key("a"))
    assert held is not None
    assert held.path == new.path
    again.unhold(key("a"), held.generation)
    again.condemn(key("a"), "again")
    assert put(again, "a").generation == 2
    again.close()


def test_it_goes_when_nobody_can_stand_on_it(store: Store) -> None:
    """References name the key alone, so any of them keeps every generation."""
    put(store, "a", size=50_000)
    old = store.condemn(key("a"), "broken")
    with pytest.raises(InUseError):
        store.evict_damaged(key("a"), 0, lambda _key: True)
    stored = store.stored_bytes()
    assert store.evict_damaged(key("a"), 0, never) == stored == old.size.apparent
    assert not old.path.exists()
    assert store.stored_bytes() == 0
    with pytest.raises(NotFoundError):
        store.evict_damaged(key("a"), 0, never)
    assert put(store, "a").generation == 0


def test_holds_from_before_the_damage_are_given_back(store: Store) -> None:
    """A bench that held the object closes as ever, also when the key has been built again."""
    held = put(store, "a", held=True)
    store.condemn(key("a"), "broken")
    put(store, "a", held=True)
    with pytest.raises(InUseError):
        store.evict_damaged(key("a"), 0, never)
    store.unhold(key("a"), held.generation)
    store.evict_damaged(key("a"), 0, never)
    assert store.is_held(key("a"))
    store.unhold(key("a"), 1)
    assert not store.is_held(key("a"))


def test_only_the_generation_that_was_looked_at_is_condemned(store: Store) -> None:
    """Between look and verdict the object may have been built anew."""
    put(store, "a")
    store.condemn(key("a"), "broken", generation=0)
    put(store, "a")
    with pytest.raises(NotFoundError):
        store.condemn(key("a"), "broken", generation=0)
    assert store.hold(key("a")) is not None


def test_killed_between_its_two_markers_it_is_damaged(store: Store, root: Path) -> None:
    """The verdict is on disk before the object is withdrawn."""
    put(store, "a")
    whole = store.layout.markers / str(ME.uid) / "pip" / f"{key('a').digest}.json"
    before = whole.read_bytes()
    store.condemn(key("a"), "broken")
    kill(store)
    whole.write_bytes(before)
    again = Store.open(root)
    assert [entry.damaged for entry in again.entries()] == ["broken"]
    assert not whole.exists()
    again.close()


def test_a_check_finds_what_was_stamped_changed(store: Store) -> None:
    """Stamps are looked at, absolute paths and links included, and the folder itself."""
    build = store.begin(key("a"), ME)
    (build.path / "file").write_text("x")
    outside = store.layout.root / "interpreter"
    outside.write_text("3.11")
    (build.path / "python").symlink_to(outside)
    stamped = ("file", "python", str(outside))
    entry = store.commit(build, summary="", build_seconds=1, details={}, stamped=stamped)
    assert store.check(key("a")) is None
    outside.write_text("3.12!")
    assert store.check(key("a")) == "python has changed"
    outside.unlink()
    assert "python cannot be read" in str(store.check(key("a")))
    (entry.path / "file").unlink()
    assert "file cannot be read" in str(store.check(key("a")))
    entry.path.rename(entry.path.with_name("elsewhere"))
    assert store.check(key("a")) == "its folder is gone"
    assert store.check(key("b")) == "it is not there"


def test_a_seal_weighs_and_stamps_anew(store: Store, root: Path) -> None:
    """What was added after the commit counts from then on, durably."""
    entry = put(store, "a")
    (entry.path / "compiled").write_bytes(b"x" * 9000)
    sealed = store.seal(entry.key, 0, units=None, stamped=("compiled",))
    assert sealed.facts.sealed
    assert sealed.size.apparent > entry.size.apparent
    assert store.stored_bytes() == sealed.size.apparent
    kill(store)
    again = Store.open(root)
    found = again.get(entry.key)
    assert found is not None
    assert found.facts == sealed.facts
    assert again.evict(entry.key, never) == sealed.size.apparent
    again.close()
