from pathlib import Path

import pytest
from shelf import key, never, put

from ray_envd.cache.past import Past
from ray_envd.cache.store import Store
from ray_envd.cache.worth import HALF_LIFE

NOW = 1_800_000_000.0


def test_heat_fades_while_an_object_is_away() -> None:
    """Half of it is left after the half-life; of what was never there nothing is."""
    past = Past()
    past.note(key("a"), 6.0, NOW, NOW - 5)
    assert past.heat(key("a"), NOW + HALF_LIFE) == 3.0
    assert past.heat(key("a"), NOW + 2 * HALF_LIFE) == 1.5
    assert past.heat(key("b"), NOW) == 0.0
    assert (past.since(key("a"), NOW + 9), past.since(key("b"), NOW + 9)) == (NOW - 5, NOW + 9)


def test_what_was_evicted_first_is_forgotten_first() -> None:
    """No more are known than may be; one that was evicted again counts as new."""
    past = Past(most=2)
    for name in ("a", "b", "a", "c"):
        past.note(key(name), 1.0, NOW, NOW)
    assert [past.heat(key(name), NOW) for name in "abc"] == [1.0, 0.0, 1.0]


def test_who_comes_back_is_known(tmp_path: Path) -> None:
    """Built again after an eviction, an object is as warm as before and one use more, and used since then."""
    store = Store.open(tmp_path / "store")
    try:
        put(store, "a")
        for _ in range(3):
            store.hold(key("a"))
            store.unhold(key("a"), 0)
        before = store.get(key("a"))
        assert before is not None
        assert before.heat == pytest.approx(4.0, rel=1e-3)
        store.evict(key("a"), never)
        again = put(store, "a")
        assert again.heat == pytest.approx(5.0, rel=1e-3)
        assert again.since == before.since == before.created < again.created
        assert put(store, "b").heat == 1.0
    finally:
        store.close()
    reopened = Store.open(tmp_path / "store")
    try:
        kept = reopened.get(key("a"))
        assert kept is not None
        assert kept.since == before.since
    finally:
        reopened.close()
