"""Figures of benchmarks: medians, their spread, ratios, and whether targets are met."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks/support"))

# Found by the line above:
from figures import Figures, Series, Target


def figures(**targets: Target) -> Figures:
    """Ours takes 10 ms where stock takes 1000, and answers 50 where it answers 10; memory is 70 MiB."""
    series = {
        "ours": Series("ours", values=[9.0, 10.0, 11.0, 30.0, 8.0]),
        "stock": Series("stock", values=[1000.0, 900.0, 1100.0]),
        "rate": Series("rate", "1/s", [50.0]),
        "rate_stock": Series("rate of stock", "1/s", [10.0]),
        "memory": Series("memory", "MiB", [70.0]),
        "never": Series("never measured"),
    }
    ratios = {
        "part": ("ours to stock", "ours", "stock"),
        "times": ("stock to ours", "stock", "ours"),
        "rates": ("rate to stock's", "rate", "rate_stock"),
        "nothing": ("of what was not measured", "never", "stock"),
    }
    return Figures(series, ratios, {"cores": 2}, targets)


def test_spread() -> None:
    """The middle half of what was measured, so that one bad figure does not widen it."""
    told = figures().to_json()["series"]["ours"]
    assert (told["median"], told["quartiles"], told["min"], told["max"]) == (10.0, [9.0, 11.0], 8.0, 30.0)
    assert Series("one", values=[4.0]).quartiles == (4.0, 4.0)


def test_ratios() -> None:
    """Ratios are of medians, spread wide as both sides' middle halves allow, the unmeasured is left out."""
    told = figures().to_json()["ratios"]
    assert told["part"]["ratio"] == 0.01
    assert told["part"]["spread"] == [9 / 1050, 11 / 950]
    assert (told["part"]["above"], told["part"]["below"]) == ("ours", "stock")
    assert "nothing" not in told


@pytest.mark.parametrize(
    ("name", "target", "met"),
    [
        ("part", Target(most=0.01, of="stock"), True),
        ("part", Target(most=0.009, of="stock"), False),
        ("times", Target(least=100, of="stock"), True),
        ("times", Target(least=101, of="stock"), False),
        ("rates", Target(least=5, of="stock"), True),
        ("memory", Target(most=60), False),
        ("nothing", Target(most=1, of="stock"), None),
    ],
)
def test_targets(name: str, target: Target, met: bool | None) -> None:  # noqa: FBT001 - a column of the table
    """A figure at its bound is well; of one that was not measured nothing is said."""
    told = figures(**{name: target}).to_json()["targets"][name]
    assert told["met"] is met
    assert (told["most"], told["least"], told["of"]) == (target.most, target.least, target.of)


@pytest.mark.parametrize(
    ("name", "target", "sides"),
    [
        ("part", Target(most=1, of="stock"), ("ours", "stock")),
        ("times", Target(least=1, of="stock"), ("ours", "stock")),
        ("rates", Target(least=1, of="stock"), ("rate", "rate_stock")),
        ("memory", Target(most=60), ("memory", None)),
    ],
)
def test_sides(name: str, target: Target, sides: tuple[str, str | None]) -> None:
    """Which side is ours follows from which way is better: less time, or more answers in it."""
    told = figures(**{name: target}).to_json()["targets"][name]
    assert (told["ours"], told["other"]) == sides


def test_targets_that_make_no_sense() -> None:
    """A target is of something that is measured, and bounds it on one side."""
    with pytest.raises(ValueError, match="wrong"):
        figures(wrong=Target(most=1))
    with pytest.raises(ValueError, match="either"):
        Target()
    with pytest.raises(ValueError, match="either"):
        Target(most=1, least=0)


def test_shown(tmp_path: Path) -> None:
    """People read first which target was missed and what stops us; programs read every figure."""
    made = figures(
        part=Target(most=0.01, of="stock"), memory=Target(most=60, limit="Python alone takes 65 MiB.")
    )
    page = io.StringIO()
    made.show(Console(file=page, width=120), "A title")
    text = page.getvalue()
    assert (
        text.index("at most 0.01 of stock") < text.index("missed") < text.index("Python alone takes 65 MiB.")
    )
    assert "never measured" not in text
    made.write(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["series"]["stock"]["values"] == [1000, 900, 1100]
