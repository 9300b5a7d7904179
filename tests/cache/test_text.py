import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_envd.cache.text import ago_text, bytes_text, seconds_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_999, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_bytes_read_with_three_digits(count: int, text: str) -> None:
    """Never four digits where a larger unit exists."""
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0404, "40 ms"), (12.5, "12.5 s"), (250, "4 m 10 s"), (3600, "1 h"), (266_400, "3 d 2 h")],
)
def test_durations_read_with_two_units(seconds: float, text: str) -> None:
    """The two largest units, the second only if it is not nothing."""
    assert seconds_text(seconds) == text


def test_ago() -> None:
    """A clock that went back reads as now."""
    assert ago_text(100, 99) == "now"
    assert ago_text(0, 7200) == "2 h ago"


@given(st.integers(min_value=0, max_value=1 << 62))
def test_sizes_are_short_for_people(size: int) -> None:
    """At most a handful of digits and a unit, one that can be given back as a setting."""
    number, unit = bytes_text(size).split()
    assert len(number) <= 7
    assert unit in {"B", "kB", "MB", "GB", "TB"}
