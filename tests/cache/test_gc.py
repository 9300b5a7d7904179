import random
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_envd.cache.gc import Limits, Plan, plan
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.ledger import Ledger
from ray_envd.cache.records import Entry, Facts
from ray_envd.cache.sizes import Size

NOW = 1_000_000.0


def _entry(
    name: int, size: int, age: float, *, kind: str = "pip", pinned: bool = False, owner: int = 0
) -> Entry:
    return Entry(
        key=ObjectKey(owner, kind, digest_of(name)),
        path=Path("/nowhere"),
        facts=Facts(str(name), Size(size), 0.0, 1.0, {}, pinned=pinned),
        last_used=NOW - age,
        uses=1,
    )


def _ledger(entries: list[Entry]) -> Ledger:
    return Ledger(sum(entry.size.private for entry in entries), {})


def _names(planned: Plan) -> list[int]:
    return [int(victim.entry.summary) for victim in planned.victims]


def _plan(entries: list[Entry], limits: Limits, busy: AbstractSet[int] = frozenset(), **options: Any) -> Plan:
    keys = {entry.key for entry in entries if int(entry.summary) in busy}
    return plan(entries, ledger=_ledger(entries), busy=keys.__contains__, limits=limits, now=NOW, **options)


TEN = [_entry(n, 10, age=100 - n) for n in range(10)]


@pytest.mark.parametrize(
    ("limits", "options", "victims"),
    [
        (Limits(), {}, []),
        (Limits(high_bytes=100, low_bytes=50), {}, []),
        (Limits(high_bytes=99, low_bytes=50), {}, [0, 1, 2, 3, 4]),
        (Limits(high_bytes=99, low_bytes=51), {}, [0, 1, 2, 3, 4]),
        (Limits(high_bytes=99), {}, [0]),
        (Limits(high_bytes=0), {}, list(range(10))),
        (Limits(high_bytes=100, low_bytes=90), {"extra_bytes": 1}, [0, 1]),
        (Limits(high_bytes=50, low_bytes=0), {"target": 95}, [0]),
        (Limits(), {"target": 70}, [0, 1, 2]),
        (Limits(), {"target": 70, "extra_bytes": 15}, [0, 1, 2, 3, 4]),
        (Limits(), {"target": 100}, []),
        (Limits(min_unused_seconds=98), {"target": 0}, [0, 1, 2]),
        (Limits(kind_bytes={"pip": 85}), {}, [0, 1]),
        (Limits(kind_bytes={"uv": 0}), {}, []),
        (Limits(high_bytes=99, low_bytes=60, kind_bytes={"pip": 85}), {}, [0, 1]),
    ],
)
def test_the_least_recently_used_go_until_the_goal(
    limits: Limits, options: dict[str, Any], victims: list[int]
) -> None:
    """Ten objects of ten bytes, 0 the oldest: which go under which limits."""
    planned = _plan(TEN, limits, **options)
    assert _names(planned) == victims
    assert planned.freed == 10 * len(victims)
    assert planned.remaining == 100 + options.get("extra_bytes", 0) - planned.freed


def test_busy_and_pinned_objects_are_passed_over() -> None:
    """The next ones go in their stead."""
    entries = [_entry(0, 10, 9, pinned=True), _entry(1, 10, 8), _entry(2, 10, 7), _entry(3, 10, 6)]
    assert _names(_plan(entries, Limits(), {1}, target=30)) == [2]


def test_a_kinds_limit_takes_only_that_kind_and_counts_for_the_whole() -> None:
    """What went for the kind's limit need not go twice for the watermark."""
    entries = [_entry(n, 10, 100 - n, kind="pip" if n % 2 else "uv") for n in range(6)]
    limits = Limits(high_bytes=45, low_bytes=40, kind_bytes={"pip": 10})
    planned = _plan(entries, limits)
    assert _names(planned) == [1, 3]
    assert all("pip is above its limit of 10 B" in victim.reason for victim in planned.victims)
    assert _names(_plan(entries, limits, {1, 3})) == [5, 0]


def test_each_victim_has_its_reason() -> None:
    """The dry run shows people why."""
    assert "above 99 B" in _plan(TEN, Limits(high_bytes=99, low_bytes=50)).victims[0].reason
    assert "asked to come down to 70 B" in _plan(TEN, Limits(), target=70).victims[0].reason


@pytest.mark.parametrize(
    "values",
    [
        {"high_bytes": 10, "low_bytes": 11},
        {"low_bytes": 1},
        {"high_bytes": -1},
        {"high_bytes": 1, "low_bytes": -1},
        {"kind_bytes": {"pip": -1}},
        {"min_unused_seconds": -1.0},
    ],
)
def test_limits_that_contradict_themselves_are_refused(values: dict[str, float]) -> None:
    """At start, not at the first collection."""
    with pytest.raises(ValueError, match=r"limit|watermark"):
        Limits(**values)  # type: ignore[arg-type]


_entries = st.lists(
    st.builds(
        lambda size, age, kind, pinned: (size, age, kind, pinned),
        st.integers(0, 50),
        st.floats(-10, 100) | st.integers(0, 5),
        st.sampled_from(["pip", "uv", "archive"]),
        st.booleans(),
    ),
    max_size=12,
).map(lambda rows: [_entry(n, row[0], row[1], kind=row[2], pinned=row[3]) for n, row in enumerate(rows)])
_size = st.none() | st.integers(0, 300)


@given(
    entries=_entries,
    busy=st.sets(st.integers(0, 11)),
    marks=st.tuples(_size, _size),
    kinds=st.dictionaries(st.sampled_from(["pip", "uv"]), st.integers(0, 100)),
    unused=st.floats(0, 50),
    target=_size,
    extra=st.integers(0, 100),
    seed=st.randoms(use_true_random=False),
)
def test_whatever_is_planned_keeps_the_rules(
    entries: list[Entry],
    busy: set[int],
    marks: tuple[int | None, int | None],
    kinds: dict[str, int],
    unused: float,
    target: int | None,
    extra: int,
    seed: random.Random,
) -> None:
    """Nobody's object goes, sums are right, goals are met where they can be, nothing goes needlessly."""
    high = max((mark for mark in marks if mark is not None), default=None)
    low = min((mark for mark in marks if mark is not None), default=None)
    limits = Limits(high, low, kinds, unused)
    keys = {entry.key for entry in entries if int(entry.summary) in busy}
    planned = plan(
        entries,
        ledger=_ledger(entries),
        busy=keys.__contains__,
        limits=limits,
        now=NOW,
        target=target,
        extra_bytes=extra,
    )
    gone = [victim.entry for victim in planned.victims]
    assert len({entry.key for entry in gone}) == len(gone)
    assert not [e for e in gone if e.pinned or e.key in keys or NOW - e.last_used < unused]
    assert planned.freed == sum(entry.size.private for entry in gone)
    assert planned.remaining == sum(entry.size.private for entry in entries) + extra - planned.freed

    free = [e for e in entries if not e.pinned and e.key not in keys and NOW - e.last_used >= unused]
    whole = sum(entry.size.private for entry in entries) + extra
    goal = target if target is not None else low if high is not None and whole > high else None
    if goal is not None and target is not None and planned.remaining > goal:
        assert len(gone) == len(free)
    for kind, limit in kinds.items():
        left = sum(e.size.private for e in entries if e.key.kind == kind) - sum(
            e.size.private for e in gone if e.key.kind == kind
        )
        assert left <= limit or not [e for e in free if e.key.kind == kind and e not in gone]
    if goal is None and not kinds:
        assert gone == []

    seed.shuffle(entries)
    again = plan(
        entries,
        ledger=_ledger(entries),
        busy=keys.__contains__,
        limits=limits,
        now=NOW,
        target=target,
        extra_bytes=extra,
    )
    assert again == planned


@given(entries=_entries, target=st.integers(0, 300))
def test_no_victim_is_younger_than_one_that_stays(entries: list[Entry], target: int) -> None:
    """Least recently used means just that, and the last victim was needed."""
    planned = plan(
        entries,
        ledger=_ledger(entries),
        busy=lambda _key: False,
        limits=Limits(),
        now=NOW + 100,
        target=target,
    )
    gone = {victim.entry.key for victim in planned.victims}
    stays = [e.last_used for e in entries if e.key not in gone and not e.pinned]
    assert all(v.entry.last_used <= min(stays, default=NOW + 100) for v in planned.victims)
    if planned.victims:
        assert planned.remaining + planned.victims[-1].entry.size.private > target
