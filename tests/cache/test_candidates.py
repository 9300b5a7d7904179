from itertools import permutations

from plans import NOW, entry, ledger, number

from ray_envd.cache.account import Account
from ray_envd.cache.candidates import Candidates
from ray_envd.cache.records import Entry
from ray_envd.cache.worth import HALF_LIFE

MB = 10**6


def _order(free: list[Entry], *busy: Entry, outside: frozenset[str] = frozenset()) -> list[int]:
    account = Account.of_all(ledger([*free, *busy], outside), 0)
    candidates = Candidates(free, account, NOW)
    order = []
    while (candidate := candidates.pop()) is not None:
        order.append(number(candidate.entry))
    return order


def test_equal_worth_goes_by_age_then_by_name() -> None:
    """Whatever the order in which they came: the key settles what nothing else does."""
    old = entry(0, 5 * MB, age=HALF_LIFE, heat=2.0)
    alike = [entry(n, 5 * MB, heat=1.0) for n in (1, 2, 3)]
    expected = [0, *(number(each) for each in sorted(alike, key=lambda each: each.key))]
    assert all(_order(list(mixed)) == expected for mixed in permutations([*alike, old]))


def test_each_answers_for_its_part_of_what_they_share() -> None:
    """Two with 100 MB in common come before one of 40 MB, and behind one of 60 MB."""
    sharers = [entry(n, MB, units={"torch": 100 * MB}) for n in (0, 1)]
    assert set(_order([*sharers, entry(2, 40 * MB)])[:2]) == {0, 1}
    assert _order([*sharers, entry(2, 60 * MB)])[0] == 2


def test_nobody_answers_for_what_is_not_to_be_had() -> None:
    """A busy object has it too, or uv's cache: removing all who may go would not free it."""
    sharers = [entry(n, MB, units={"torch": 100 * MB}) for n in (0, 1)]
    other = entry(2, 2 * MB)
    busy = entry(3, MB, units={"torch": 100 * MB})
    assert _order([*sharers, other])[0] != 2
    assert _order([*sharers, other], busy)[0] == 2
    assert _order([*sharers, other], outside=frozenset({"torch"}))[0] == 2


def test_the_last_one_answers_for_all_of_it() -> None:
    """It comes up as soon as the others are gone, before what was to come earlier."""
    last = entry(9, MB, heat=3.0, units={"torch": 100 * MB})
    others = [entry(n, MB, heat=0.1, units={"torch": 100 * MB}) for n in range(4)]
    between = [entry(n, 30 * MB) for n in (20, 21)]
    assert _order([last, *others, *between])[4] == 9
    assert _order([last, *between], *others)[:2] != [9]
