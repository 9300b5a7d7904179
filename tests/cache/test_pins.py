"""Pins by name: what is wanted stays, what nobody wants goes, and pins by hand are nobody else's business."""

import logging

import pytest
from shelf import key, put

from ray_envd.cache.errors import NotFoundError
from ray_envd.cache.pins import Pins
from ray_envd.cache.store import Store


def pinned(store: Store) -> set[str]:
    """The summaries of all pinned objects."""
    return {entry.summary for entry in store.entries() if entry.pinned}


def anew(store: Store) -> Pins:
    """As the next daemon reads them."""
    return Pins(store, store.layout.warm_pins)


def test_what_several_names_want_stays_until_the_last_has_gone(store: Store) -> None:
    """Also where names come and go while no daemon runs."""
    for name in "abc":
        put(store, name)
    pins = anew(store)
    pins.take("one", [key("a"), key("b")])
    pins.take("two", [key("b"), key("c")])
    assert pinned(store) == {"a", "b", "c"}
    pins = anew(store)
    pins.retain(["two"])
    assert pinned(store) == {"b", "c"}
    anew(store).retain([])
    assert pinned(store) == set()


def test_a_name_that_wants_something_else_lets_the_old_go(store: Store) -> None:
    """A newer version is pinned in place of the older; the same again changes nothing on disk."""
    put(store, "old"), put(store, "new")
    pins = anew(store)
    pins.take("one", [key("old")])
    pins.take("one", [key("new")])
    assert pinned(store) == {"new"}
    before = store.layout.warm_pins.stat().st_ino
    pins.take("one", [key("new")])
    assert store.layout.warm_pins.stat().st_ino == before


def test_what_was_pinned_by_hand_stays_pinned(store: Store) -> None:
    """Whoever pinned it first has to unpin it."""
    put(store, "a")
    store.pin(key("a"))
    pins = anew(store)
    pins.take("one", [key("a")])
    pins.retain([])
    assert pinned(store) == {"a"}


def test_what_is_unpinned_or_built_anew_is_pinned_again(store: Store) -> None:
    """The name still wants it; what is not there can be no one's."""
    put(store, "a")
    pins = anew(store)
    pins.take("one", [key("a")])
    store.unpin(key("a"))
    pins.take("one", [key("a")])
    assert pinned(store) == {"a"}
    store.condemn(key("a"), "broken")
    with pytest.raises(NotFoundError):
        pins.take("one", [key("a")])
    put(store, "a")
    pins.take("one", [key("a")])
    pins.retain([])
    assert pinned(store) == set()


def test_a_damaged_record_is_as_good_as_none(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon starts, says so, and goes on with what it is told then."""
    put(store, "a")
    store.layout.warm_pins.write_text('{"names": {"one": ["what"]}}')
    with caplog.at_level(logging.WARNING):
        pins = anew(store)
    assert "must be unpinned by hand" in caplog.text
    pins.take("one", [key("a")])
    assert pinned(store) == {"a"}
