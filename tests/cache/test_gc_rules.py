"""Rules that every plan keeps, whatever is stored: objects of all kinds that share files at random."""

import random
from dataclasses import dataclass
from itertools import chain, combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from plans import NOW, entry, ledger

from ray_envd.cache.gc import Limits, Plan, plan
from ray_envd.cache.records import Entry

DAY = 86400.0
UNITS = {"a": 7, "b": 30, "c": 100, "d": 0}

_rows = st.lists(
    st.builds(
        dict,
        size=st.integers(0, 50),
        age=st.floats(-10, 100) | st.integers(0, 5) | st.floats(0, 30 * DAY),
        kind=st.sampled_from(["python", "archive", "base"]),
        units=st.sets(st.sampled_from(sorted(UNITS))),
        pinned=st.sampled_from([False, False, False, False, True]),
        damaged=st.sampled_from(["", "", "", "", "it is not whole"]),
        heat=st.floats(0.01, 50) | st.just(1.0),
        seconds=st.floats(0, 100),
        fetched=st.integers(0, 10**9),
        generation=st.integers(0, 3),
    ),
    min_size=1,
    max_size=9,
)
_size = st.none() | st.integers(0, 300)


def _entries(rows: list[dict]) -> list[Entry]:  # type: ignore[type-arg]  # rows as JSON has them
    return [
        entry(number, **{**row, "units": {unit: UNITS[unit] for unit in row["units"]}})
        for number, row in enumerate(rows)
    ]


@dataclass(frozen=True)
class _World:
    """Everything that a plan depends on."""

    entries: list[Entry]
    outside: frozenset[str]
    busy: frozenset[int]
    limits: Limits
    target: int | None
    extra: int

    def plan(self, entries: list[Entry] | None = None, target: int | None = None) -> Plan:
        keys = {self.entries[number].key for number in self.busy if number < len(self.entries)}
        return plan(
            self.entries if entries is None else entries,
            ledger=ledger(self.entries, self.outside),
            busy=keys.__contains__,
            limits=self.limits,
            now=NOW,
            target=self.target if target is None else target,
            extra_bytes=self.extra,
        )

    def total(self, gone: list[Entry]) -> int:
        """The bytes without these, counted anew from nothing."""
        left = [each for each in self.entries if each not in gone]
        return ledger(left, self.outside).total + self.extra

    def may_go(self) -> list[Entry]:
        return [
            each
            for number, each in enumerate(self.entries)
            if not each.pinned
            and number not in self.busy
            and abs(NOW - each.last_used) >= self.limits.min_unused_seconds
        ]


_worlds = st.builds(
    lambda rows, outside, busy, marks, kinds, unused, target, extra: _World(
        _entries(rows),
        frozenset(outside),
        frozenset(busy),
        Limits(
            max((mark for mark in marks if mark is not None), default=None),
            min((mark for mark in marks if mark is not None), default=None),
            kinds,
            unused,
        ),
        target,
        extra,
    ),
    _rows,
    st.sets(st.sampled_from(sorted(UNITS))),
    st.sets(st.integers(0, 8), max_size=3),
    st.tuples(_size, _size),
    st.just({}) | st.dictionaries(st.sampled_from(["python", "archive"]), st.integers(0, 100)),
    st.just(0.0) | st.floats(0, 50),
    st.integers(0, 200) | _size,
    st.just(0) | st.integers(0, 100),
)


@given(_worlds)
def test_nobody_s_object_goes(world: _World) -> None:
    """Referenced, held, pinned and too young objects stay; nothing goes twice."""
    gone = [victim.entry for victim in world.plan().victims]
    allowed = world.may_go()
    assert all(each in allowed for each in gone)
    assert len({(each.key, each.generation) for each in gone}) == len(gone)


@given(_worlds)
def test_the_sums_are_those_of_a_recount(world: _World) -> None:
    """What is freed, one by one and in all, is the difference of what the store weighs before and after."""
    planned = world.plan()
    gone = list[Entry]()
    for victim in planned.victims:
        before = world.total(gone)
        gone.append(victim.entry)
        assert victim.frees == before - world.total(gone)
    assert planned.remaining == world.total(gone)
    assert planned.freed == world.total([]) - world.total(gone)


@given(_worlds)
def test_goals_are_met_where_they_can_be(world: _World) -> None:
    """A goal is missed only if all who may go have gone; damaged ones go in any case."""
    planned = world.plan()
    gone = [victim.entry for victim in planned.victims]
    allowed = world.may_go()
    assert all(each in gone for each in allowed if each.damaged)
    high, low = world.limits.high_bytes, world.limits.low_bytes
    if world.target is not None:
        assert planned.remaining <= world.target or len(gone) == len(allowed)
    elif high is not None and low is not None and planned.remaining > high:
        assert len(gone) == len(allowed)
    for kind, limit in world.limits.kind_bytes.items():
        left = [each for each in world.entries if each.key.kind == kind and each not in gone]
        # Sharing with another kind does not make a kind lighter.
        assert ledger(left, world.outside).total <= limit or not [e for e in allowed if e in left]


@settings(max_examples=300)
@given(_worlds)
def test_nothing_goes_without_a_reason(world: _World) -> None:
    """Within the limits everything whole stays; and of those who go for a goal, each is needed for it."""
    planned = world.plan()
    gone = [victim.entry for victim in planned.victims]
    if world.limits.kind_bytes:
        return
    whole = [each for each in gone if not each.damaged]
    start = world.total([each for each in gone if each.damaged])
    high, low = world.limits.high_bytes, world.limits.low_bytes
    goal = world.target if world.target is not None else low if high is not None and start > high else None
    if goal is None or start <= goal:
        assert whole == []
    elif planned.remaining <= goal:
        for each in whole:
            assert world.total([other for other in gone if other is not each]) > goal


@given(_worlds, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(world: _World, chance: random.Random) -> None:
    """Equal stores give equal plans."""
    shuffled = world.entries.copy()
    chance.shuffle(shuffled)
    assert world.plan(shuffled) == world.plan()


@given(_worlds, st.integers(0, 300), st.integers(0, 300))
def test_to_ask_for_more_never_frees_less(world: _World, one: int, other: int) -> None:
    """A lower target leaves at most as much."""
    assert world.plan(target=min(one, other)).freed >= world.plan(target=max(one, other)).freed


@given(_worlds)
def test_a_goal_that_some_choice_meets_is_met(world: _World) -> None:
    """Against all choices there are: if any set of those who may go is enough, so is the plan's."""
    if world.target is None:
        return
    allowed = world.may_go()
    choices = chain.from_iterable(combinations(allowed, n) for n in range(len(allowed) + 1))
    least = min(world.total(list(choice)) for choice in choices)
    assert world.plan().remaining <= max(world.target, least)
