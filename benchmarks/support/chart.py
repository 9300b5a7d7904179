"""A run's ratios as bars: how many times better than stock Ray, and beside limits."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from page import label

_OURS, _MISSED, _TARGET, _TEXT = "#2a6fbb", "#c2571a", "#111111", "#222222"
_ROW, _WIDTH, _LABEL = 0.42, 10.0, 46
STOCK = "stock"


@dataclass(frozen=True)
class Bar:
    """One target's ratio: to stock as times better, beside a limit as times of that; ends of its spread."""

    what: str
    of: str
    value: float
    low: float
    high: float
    target: float
    met: bool


def bars(run: Mapping[str, Any]) -> tuple[list[Bar], list[Bar]]:
    """What is compared with stock, and what with a limit; in the order of the run."""
    made = [
        _bar(benchmark, each["ratios"][name], target)
        for benchmark, each in run["benchmarks"].items()
        for name, target in each.get("targets", {}).items()
        if target["of"] and target["found"] is not None and name in each["ratios"]
    ]
    return [bar for bar in made if bar.of == STOCK], [bar for bar in made if bar.of != STOCK]


def _bar(benchmark: str, ratio: Mapping[str, Any], target: Mapping[str, Any]) -> Bar:
    value, (low, high) = ratio["ratio"], ratio["spread"]
    bound = target["least"] if target["most"] is None else target["most"]
    better_is_more = target["of"] == STOCK
    if better_is_more is (target["least"] is None):
        value, low, high, bound = 1 / value, 1 / high, 1 / low, 1 / bound
    what = f"{benchmark}: {label(ratio['what'])}"
    return Bar(what, target["of"], value, low, high, bound, target["met"])


def draw(run: Mapping[str, Any], stem: Path) -> None:
    """Writes the chart as PNG and SVG; on a white ground, so that it can be read on a dark page, too.

    Raises:
        ValueError: the run has no target that is a ratio.
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the page, of which label() is, does without

    to_stock, to_limits = bars(run)
    panels = [each for each in (to_stock, to_limits) if each]
    if not panels:
        raise ValueError("there is no ratio with a target")
    plt.rcParams.update({"svg.hashsalt": "ray-envd", "text.color": _TEXT, "axes.labelcolor": _TEXT})
    rows = [len(panel) + 1.6 for panel in panels]
    figure, grid = plt.subplots(
        len(panels), 1, figsize=(_WIDTH, _ROW * sum(rows) + 0.6), height_ratios=rows, squeeze=False
    )
    figure.patch.set_facecolor("white")
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        _panel(axes, panel)
    date = run["date"]
    figure.suptitle(
        f"ray-envd, {date}: medians, spread of the middle half; orange: target missed", fontsize=11
    )
    figure.tight_layout()
    figure.savefig(stem.with_suffix(".png"), dpi=120)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Any, panel: Sequence[Bar]) -> None:
    places = list(range(len(panel)))
    to_stock = panel[0].of == STOCK
    colors = [_OURS if bar.met else _MISSED for bar in panel]
    values = [bar.value for bar in panel]
    if to_stock:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        # Bars begin where both are alike.
        widths, left = [value - 1 for value in values], 1.0
    else:
        widths, left = values, 0.0
    errors = [[bar.value - bar.low for bar in panel], [bar.high - bar.value for bar in panel]]
    axes.barh(places, widths, left=left, height=0.55, color=colors, zorder=2)
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=_TEXT, elinewidth=1, capsize=3, zorder=3)
    targets = [bar.target for bar in panel]
    axes.scatter(targets, places, marker="|", s=260, linewidths=2.2, color=_TARGET, zorder=4)
    end = max(max(bar.high, bar.value, bar.target) for bar in panel)
    axes.set_xlim(
        min(0.5, *(0.9 * bar.low for bar in panel)) if to_stock else 0, end * (2.2 if to_stock else 1.15)
    )
    for place, bar in zip(places, panel, strict=True):
        text = f" {_number(bar.value)} x"
        axes.text(max(bar.high, bar.value, bar.target), place, text, va="center", fontsize=9, zorder=5)
    axes.axvline(1, color="0.35", linewidth=1, zorder=1)
    names = (bar.what if to_stock else f"{bar.what}, to {bar.of}" for bar in panel)
    axes.set_yticks(places, [textwrap.fill(name, _LABEL) for name in names], fontsize=8.5)
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3, zorder=0)
    axes.set_xlabel(
        "times better than stock Ray in the same run; mark: target"
        if to_stock
        else "times the limit (less is better); mark: target",
        fontsize=9,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(value: float) -> str:
    if value >= 10:
        return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"
    return f"{value:.2f}"
