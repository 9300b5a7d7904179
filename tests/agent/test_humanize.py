"""Sizes and durations as people write and read them."""

import pytest

from ray_envd.agent.humanize import (
    Size,
    parse_bytes,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("500", 500),
        ("500B", 500),
        ("20GB", 20 * 10**9),
        ("20 GiB", 20 * 2**30),
        ("1.5k", 1500),
        ("2Ti", 2**41),
    ],
)
def test_sizes_are_decimal_or_binary_as_written(text: str, count: int) -> None:
    """GB is 10^9 and GiB 2^30."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "10 apples", "1iB", "5%"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """A typo never becomes a number of bytes."""
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


def test_a_share_is_of_the_whole() -> None:
    """A percentage is resolved against what it is a share of; bytes are not."""
    assert parse_size("85%").of(1000) == 850
    assert parse_size("1kB").of(10) == 1000
    assert str(Size(percent=85.0)) == "85%"
    for wrong in ("0%", "101%"):
        with pytest.raises(ValueError, match="percentage"):
            parse_size(wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("600", 600), ("0.5", 0.5), ("10m", 600), ("1h30m", 5400), ("1d 2h", 93600), ("250ms", 0.25)],
)
def test_durations_have_units_or_are_seconds(text: str, seconds: float) -> None:
    """Units add up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10x", "1h 5", "-3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number after a unit needs a unit."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
