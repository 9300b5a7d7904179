"""Claims: what is outside of the store by our doing, and is remembered whatever happens."""

from pathlib import Path

import pytest
from shelf import ME, key, kill, never

from ray_envd.cache.claims import Claims
from ray_envd.cache.errors import NotFoundError
from ray_envd.cache.records import Entry
from ray_envd.cache.sizes import Unit
from ray_envd.cache.store import Store

BASE, OWN = Unit("base", 3000, ""), Unit("own", 1000, "")


def put(store: Store, name: str, *outside: Unit) -> Entry:
    """An object that stands for something outside of the store."""
    build = store.begin(key(name, "image"), ME)
    (build.path / "image.json").write_text(name)
    entry = store.commit(
        build, summary=name, build_seconds=1, details={}, present=("image.json",), outside=outside
    )
    store.unhold(entry.key)
    return entry


def test_claims_are_replaced_dropped_and_read_again(tmp_path: Path) -> None:
    """Each user's are his; one that is damaged, and what was being written, are passed over."""
    claims = Claims(tmp_path)
    claims.put(7, "one", {"image": "a"})
    claims.put(7, "one", {"image": "b"})
    claims.put(8, "pull-2", {"reference": "r"})
    (tmp_path / "7" / "bad.json").write_text("{")
    (tmp_path / "7" / ".two.json.new").write_text("{")
    assert list(Claims(tmp_path).all()) == [(7, "one", {"image": "b"}), (8, "pull-2", {"reference": "r"})]
    assert not (tmp_path / "7" / ".two.json.new").exists()
    claims.drop(7, "one")
    claims.drop(7, "one")
    assert (claims.get(7, "one"), claims.get(8, "one"), claims.get(7, "bad")) == (None, None, None)
    for name in ("../escape", "", "UPPER"):
        with pytest.raises(ValueError, match="not a claim's name"):
            claims.put(7, name, {})


def test_what_is_outside_counts_once_it_is_known_to_be_ours(root: Path) -> None:
    """Nothing is freed on a guess: not after a start, nor while others have it."""
    store = Store.open(root)
    one, two = put(store, "one", BASE, OWN), put(store, "two", BASE)
    files = one.size.private + two.size.private
    assert (store.stored_bytes(), store.ledger().exclusive(one.size)) == (files, one.size.private)
    store.note_foreign({"base": False, "own": True})
    assert store.stored_bytes() == store.ledger().total == files + 3000
    store.note_foreign({"own": False})
    assert store.ledger().exclusive(one.size) == one.size.private + 1000
    assert store.ledger().beyond == 4000
    store.seal(one.key, 0, units=None, stamped=one.facts.stamps)
    assert store.stored_bytes() == files + 4000
    (one.path / "image.json").chmod(0o600)
    (one.path / "image.json").write_text("written anew")
    assert store.check(one.key) is None, "that it is there was all that was asked"
    kill(store)
    again = Store.open(root)
    assert again.stored_bytes() == files
    again.note_foreign({"base": False, "own": False})
    assert again.stored_bytes() == files + 4000
    again.close()


def test_what_leaves_takes_along_what_is_outside(store: Store) -> None:
    """Somebody is told of it before its key is free; the bytes are freed if he could remove them."""
    told: list[str] = []

    def remove(entry: Entry) -> bool:
        told.append(entry.summary)
        with pytest.raises(NotFoundError):
            store.find(entry.id)
        return entry.summary == "one"

    store.remove_outside = remove
    one, two, none = put(store, "one", BASE, OWN), put(store, "two", BASE), put(store, "none")
    store.note_foreign({"base": False, "own": False})
    assert store.evict(one.key, never) == one.size.private + 1000
    assert store.evict(two.key, never) == two.size.private, "it could not be removed"
    assert store.evict(none.key, never) == none.size.private
    assert told == ["one", "two"]
    assert store.stored_bytes() == 0
