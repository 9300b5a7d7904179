from collections.abc import Set as AbstractSet
from typing import Any

import pytest
from plans import NOW, entry, ledger, number

from ray_envd.cache.gc import Limits, Plan, plan
from ray_envd.cache.records import Entry

MB = 10**6
DAY = 86400.0


def _plan(
    entries: list[Entry],
    limits: Limits | None = None,
    busy: AbstractSet[int] = frozenset(),
    outside: AbstractSet[str] = frozenset(),
    **options: Any,
) -> Plan:
    keys = {each.key for each in entries if number(each) in busy}
    return plan(
        entries,
        ledger=ledger(entries, outside),
        busy=keys.__contains__,
        limits=limits or Limits(),
        now=NOW,
        **options,
    )


def _names(planned: Plan) -> list[int]:
    return [number(victim.entry) for victim in planned.victims]


TEN = [entry(n, 10 * MB, age=100 - n) for n in range(10)]


@pytest.mark.parametrize(
    ("limits", "options", "victims"),
    [
        (Limits(), {}, []),
        (Limits(100 * MB, 50 * MB), {}, []),
        (Limits(99 * MB, 50 * MB), {}, [0, 1, 2, 3, 4]),
        (Limits(99 * MB, 51 * MB), {}, [0, 1, 2, 3, 4]),
        (Limits(99 * MB), {}, [0]),
        (Limits(0), {}, list(range(10))),
        (Limits(100 * MB, 90 * MB), {"extra_bytes": 1}, [0, 1]),
        (Limits(50 * MB, 0), {"target": 95 * MB}, [0]),
        (Limits(), {"target": 70 * MB}, [0, 1, 2]),
        (Limits(), {"target": 70 * MB, "extra_bytes": 15 * MB}, [0, 1, 2, 3, 4]),
        (Limits(), {"target": 100 * MB}, []),
        (Limits(min_unused_seconds=98), {"target": 0}, [0, 1, 2]),
        (Limits(kind_bytes={"python": 85 * MB}), {}, [0, 1]),
        (Limits(kind_bytes={"archive": 0}), {}, []),
        (Limits(99 * MB, 60 * MB, {"python": 85 * MB}), {}, [0, 1]),
    ],
)
def test_what_goes_under_which_limits(limits: Limits, options: dict[str, Any], victims: list[int]) -> None:
    """Ten objects alike, 0 the oldest: limits and targets are met, and not exceeded."""
    planned = _plan(TEN, limits, **options)
    assert _names(planned) == victims
    assert planned.freed == 10 * MB * len(victims)
    assert planned.remaining == 100 * MB + options.get("extra_bytes", 0) - planned.freed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"age": DAY}, {"age": DAY / 2}),
        ({"heat": 1.0}, {"heat": 5.0}),
        ({"seconds": 1.0}, {"seconds": 60.0}),
        ({"fetched": 0}, {"fetched": 500 * MB}),
        # Seven weeks ago often, against once today; a large slow one against a small quick one.
        ({"age": 49 * DAY, "heat": 20.0}, {"age": 0.0}),
        ({"size": 1000 * MB, "seconds": 30.0}, {"size": 10 * MB, "seconds": 1.0}),
    ],
)
def test_the_least_worth_goes_first(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Age, frequency, cost to rebuild and size all count; the first of each pair goes."""
    pair = [entry(0, **{"size": 10 * MB, **one}), entry(1, **{"size": 10 * MB, **other})]
    whole = ledger(pair).total
    assert _names(_plan(pair, target=whole - 1)) == [0]
    assert _names(_plan(pair[::-1], target=whole - 1)) == [0]


def test_busy_pinned_and_young_objects_are_passed_over() -> None:
    """The next ones go in their stead."""
    entries = [
        entry(0, MB, age=900, pinned=True),
        entry(1, MB, age=800),
        entry(2, MB, age=700),
        entry(3, MB, age=9, heat=0.001),
    ]
    assert _names(_plan(entries, Limits(min_unused_seconds=10), {1}, target=0)) == [2]


def test_a_kinds_limit_takes_only_that_kind_and_counts_for_the_whole() -> None:
    """What went for the kind's limit need not go twice for the watermark."""
    entries = [entry(n, 10 * MB, age=100 - n, kind="archive" if n % 2 else "python") for n in range(6)]
    limits = Limits(45 * MB, 40 * MB, {"archive": 10 * MB})
    planned = _plan(entries, limits)
    assert _names(planned) == [1, 3]
    assert all("archive is above its limit of 10.0 MB" in victim.reason for victim in planned.victims)
    assert _names(_plan(entries, limits, {1, 3})) == [5, 0]


def test_a_kind_counts_what_its_objects_share_once() -> None:
    """Ten envs of one megabyte with a hundred in common are 110 MB, and one of them going frees one."""
    entries = [entry(n, MB, age=100 - n, units={"torch": 100 * MB}) for n in range(10)]
    assert _names(_plan(entries, Limits(kind_bytes={"python": 110 * MB}))) == []
    assert _names(_plan(entries, Limits(kind_bytes={"python": 109 * MB}))) == [0]
    assert _plan(entries, Limits(kind_bytes={"python": 105 * MB})).freed == 5 * MB
    assert _names(_plan(entries, Limits(kind_bytes={"python": 100 * MB}))) == list(range(10))


def test_files_that_uvs_cache_has_free_nothing() -> None:
    """An env that is links alone is not worth its removal while something else can go."""
    entries = [entry(0, 5000, age=DAY, units={"torch": 900 * MB}), entry(1, 10 * MB)]
    planned = _plan(entries, outside={"torch"}, target=1 * MB)
    assert (_names(planned), planned.freed) == ([1], 10 * MB)
    assert _names(_plan(entries, target=MB)) == [0, 1]


def test_those_who_share_go_together() -> None:
    """Two old envs with a gigabyte in common go before a fresh one, though each frees little."""
    entries = [
        entry(0, 50_000, age=21 * DAY, units={"torch": 1000 * MB}),
        entry(1, 50_000, age=14 * DAY, units={"torch": 1000 * MB}),
        entry(2, 1000 * MB),
    ]
    planned = _plan(entries, target=1050 * MB)
    assert (_names(planned), [victim.frees for victim in planned.victims]) == ([0, 1], [50_000, 1000_050_000])


def test_nobody_goes_for_what_a_busy_object_keeps() -> None:
    """With the gigabyte held by a third, the two old ones have nothing to give."""
    entries = [
        entry(0, 50_000, age=3 * DAY, units={"torch": 1000 * MB}),
        entry(1, 50_000, age=2 * DAY, units={"torch": 1000 * MB}),
        entry(2, 1000 * MB),
        entry(3, 50_000, units={"torch": 1000 * MB}),
    ]
    assert _names(_plan(entries, busy={3}, target=1050 * MB)) == [2]


def test_the_last_one_answers_for_the_whole() -> None:
    """Once all others are gone, a warm env with two gigabytes is no cheap thing to keep any more."""
    sharers = [entry(n, MB, age=30 * DAY, units={"torch": 2000 * MB}) for n in range(99)]
    entries = [*sharers, entry(99, MB, units={"torch": 2000 * MB}), entry(100, 300 * MB)]
    planned = _plan(entries, target=320 * MB)
    assert 99 in _names(planned)
    assert 100 not in _names(planned)


def test_what_turns_out_not_to_be_needed_stays() -> None:
    """The large one has to go, so the small ones before it need not."""
    entries = [entry(n, MB, age=9 * DAY - n) for n in range(5)]
    entries.append(entry(9, 1000 * MB, seconds=100_000.0))
    assert _names(_plan(entries, target=1003 * MB)) == [0, 1]
    assert _names(_plan(entries, target=6 * MB)) == [9]
    assert len(_names(_plan(entries, target=3 * MB))) == 3


def test_damaged_objects_go_without_any_limit_and_first() -> None:
    """Nobody is given them any more; only use keeps them."""
    entries = [
        entry(0, MB, age=DAY),
        entry(1, MB, age=50, heat=9.0, damaged="six.py differs"),
        entry(2, MB, age=50, damaged="in use"),
        entry(3, MB, age=5, damaged="young"),
    ]
    limits = Limits(min_unused_seconds=10)
    planned = _plan(entries, limits, {2})
    assert _names(planned) == [1]
    assert "damaged (six.py differs)" in planned.victims[0].reason
    assert _names(_plan(entries, limits, {2}, target=2 * MB)) == [1, 0]


def test_a_time_in_the_future_keeps_nothing_for_ever() -> None:
    """What was used under a clock a year ahead is not young for a year."""
    entries = [entry(0, MB, age=-365 * DAY), entry(1, MB, age=-5)]
    assert _names(_plan(entries, Limits(min_unused_seconds=10), target=0)) == [0]


def test_generations_of_one_key_are_two_objects() -> None:
    """The damaged one goes; the one that was built in its place stays."""
    entries = [entry(0, MB, damaged="x"), entry(0, MB, generation=1)]
    planned = _plan(entries)
    assert [victim.entry.generation for victim in planned.victims] == [0]
    assert planned.remaining == MB
    both = _plan(entries, target=0)
    assert ([victim.entry.generation for victim in both.victims], both.freed) == ([0, 1], 2 * MB)


def test_each_victim_has_its_reason() -> None:
    """The dry run shows people the figures and the limit."""
    old = [entry(0, 10 * MB, age=14 * DAY, seconds=12.5, fetched=40 * MB)]
    old.append(entry(1, 10 * MB, heat=50.0))
    [victim] = _plan(old, Limits(19 * MB, 15 * MB)).victims
    assert victim.reason == (
        "used 3 times, unused for 14 d, 12.5 s and 40.0 MB of downloads to rebuild, frees 10.0 MB:"
        " the store is above 19.0 MB and comes down to 15.0 MB"
    )
    assert victim.frees == 10 * MB
    assert victim.worth == pytest.approx(0.25**0.7 * (12.5 + 0.08 + 0.02) / (10 * MB))
    assert "asked to come down to 12.0 MB" in _plan(old, target=12 * MB).victims[0].reason
    burst = entry(0, 10 * MB, age=14 * DAY, heat=3.0, since=NOW - 14 * DAY - 7200)
    assert _plan([burst], target=0).victims[0].reason.startswith("used 3 times within 2 h, unused for 14 d,")


@pytest.mark.parametrize(
    "values",
    [
        {"high_bytes": 10, "low_bytes": 11},
        {"low_bytes": 1},
        {"high_bytes": -1},
        {"high_bytes": 1, "low_bytes": -1},
        {"kind_bytes": {"python": -1}},
        {"min_unused_seconds": -1.0},
    ],
)
def test_limits_that_contradict_themselves_are_refused(values: dict[str, float]) -> None:
    """At start, not at the first collection."""
    with pytest.raises(ValueError, match=r"limit|watermark"):
        Limits(**values)  # type: ignore[arg-type]  # wrong ones on purpose
