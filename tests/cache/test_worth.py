import math
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from ray_envd.cache.worth import HALF_LIFE, SESSION, Weights, lasting, rebuild_seconds, warmed, worth

NOW = 1_800_000_000.0
MB = 10**6


@dataclass(frozen=True)
class _Rated:
    heat: float = 1.0
    last_used: float = NOW
    build_seconds: float = 10.0
    fetched_bytes: int = 0
    since: float = 0.0


_ages = st.floats(0, 400 * HALF_LIFE)
_rated = st.builds(
    _Rated,
    heat=st.floats(1e-3, 1e6),
    last_used=_ages.map(lambda age: NOW - age),
    build_seconds=st.floats(0, 1e5),
    fetched_bytes=st.integers(0, 10**12),
)


def test_a_use_counts_half_after_the_half_life() -> None:
    """Two uses a half-life apart: one and a half by the second, three quarters another half-life later."""
    assert warmed(0.0, 0.0, NOW) == 0.0
    twice = warmed(1.0, NOW, NOW + HALF_LIFE) + 1.0
    assert twice == 1.5
    assert warmed(twice, NOW + HALF_LIFE, NOW + 2 * HALF_LIFE) == 0.75


@given(st.lists(st.floats(0, 30 * HALF_LIFE), min_size=1, max_size=20))
def test_heat_is_the_sum_of_the_faded_uses(ages: list[float]) -> None:
    """One number and a time say as much as the whole history: LRFU's combined recency and frequency."""
    uses = sorted(NOW - age for age in ages)
    heat, last = 0.0, 0.0
    for use in uses:
        heat, last = warmed(heat, last, use) + 1.0, use
    history = sum(2.0 ** ((use - NOW) / HALF_LIFE) for use in uses)
    assert math.isclose(warmed(heat, last, NOW), history, rel_tol=1e-9)


def test_a_clock_that_went_back_heats_nothing() -> None:
    """An object of the future is as warm as one that was used now, however far off the clock was."""
    assert warmed(3.0, NOW + 1e9, NOW) == 3.0


def test_the_formula_to_the_letter() -> None:
    """Heat 3 a half-life ago, 10 s and 100 MB to rebuild, 50 MB: 1.5 ** 0.7 x 12.05 s / 50 MB."""
    weights = Weights(half_life=HALF_LIFE, frequency=0.7, bytes_per_second=50e6, overhead_seconds=0.05)
    rated = _Rated(3.0, NOW - HALF_LIFE, 10.0, 100 * MB)
    assert rebuild_seconds(rated, weights) == 12.05
    assert math.isclose(worth(rated, 50 * MB, NOW, weights), 1.5**0.7 * 12.05 / 50e6)


@given(rated=_rated, size=st.integers(0, 10**13), more=st.floats(1.01, 100))
def test_each_figure_pulls_its_own_way(rated: _Rated, size: int, more: float) -> None:
    """More uses, seconds or bytes to fetch: worth more. Older or larger: worth less. Never nothing."""
    plain = worth(rated, size, NOW)
    assert plain > 0
    assert worth(replace(rated, heat=rated.heat * more), size, NOW) > plain
    assert worth(replace(rated, build_seconds=rated.build_seconds + more), size, NOW) > plain
    assert worth(replace(rated, fetched_bytes=rated.fetched_bytes * 2 + MB), size, NOW) > plain
    assert worth(rated, size, NOW + HALF_LIFE) < plain
    assert worth(rated, size * more + 5000, NOW) < plain


@given(one=_rated, other=_rated, size=st.integers(1, 10**12), later=st.floats(0, 300 * HALF_LIFE))
def test_time_alone_does_not_change_the_order(one: _Rated, other: _Rated, size: int, later: float) -> None:
    """While neither is used, nor silent for longer than it was in use, what was worth more stays so."""
    first, second = worth(one, size, NOW), worth(other, size, NOW)
    if first > second * (1 + 1e-6):
        assert worth(one, size, NOW + later) > worth(other, size, NOW + later)


def test_of_what_is_silent_for_longer_than_it_was_in_use_repeated_uses_count_less() -> None:
    """Two sessions' use, silent for twice as long: a quarter of what is above one use; of one use, all."""
    often, later = _Rated(11.0, NOW, since=NOW - SESSION), NOW + 4 * SESSION
    forever = Weights(half_life=math.inf)
    assert lasting(often, NOW + 2 * SESSION) == 1.0
    assert lasting(often, later) == 0.25
    once = worth(replace(often, heat=1.0), MB, later, forever)
    assert math.isclose(worth(often, MB, later, forever) / once, 3.5**0.7)
    assert once == worth(replace(often, heat=1.0), MB, NOW, forever)
    assert lasting(replace(often, since=NOW - 3 * SESSION), later) == 1.0


@given(rated=_rated, span=st.floats(0, 1e8), silent=st.floats(0, 1e8), more=st.floats(1.01, 100))
def test_longer_use_and_shorter_silence_last(rated: _Rated, span: float, silent: float, more: float) -> None:
    """Never more than heat says nor less than one use; the more uses, the longer in use, the more."""
    rated = replace(rated, since=rated.last_used - span)
    now = rated.last_used + silent
    assert lasting(rated, rated.last_used + silent * more) <= lasting(rated, now) <= 1
    assert lasting(replace(rated, since=rated.last_used - span * more), now) >= lasting(rated, now) > 0
    assert worth(replace(rated, heat=rated.heat * more), MB, now) >= worth(rated, MB, now) > 0
    assert worth(rated, MB, now) <= worth(replace(rated, since=0.0), MB, now)
