"""What a study found, as JSON, as a page of tables, and as charts."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from replay import Outcome
from study import OURS, POLICIES, Point, Study

_SHOWN: dict[str, Callable[[Outcome], float]] = {
    "rebuild seconds saved": lambda outcome: outcome.saved,
    "hit rate": lambda outcome: outcome.hit_rate,
    "byte hit rate": lambda outcome: outcome.byte_hit_rate,
}


def write_json(found: Study, path: Path) -> None:
    """Every figure."""
    workloads = [
        {
            "name": each.name,
            "about": each.about,
            "requests": len(each.uses),
            "items": len(each.items),
            "working_set_bytes": each.working_set,
        }
        for each in found.workloads
    ]
    points = [
        {
            "workload": each.workload,
            "fraction": each.fraction,
            "capacity_bytes": each.capacity,
            "bound_seconds": each.bound,
            "best_schedule_found": _counts(each.schedule),
            "policies": {name: _counts(outcome) for name, outcome in each.outcomes.items()},
        }
        for each in found.points
    ]
    made = {"circumstances": found.circumstances, "workloads": workloads, "points": points}
    path.write_text(json.dumps(made, indent=1) + "\n")


def _counts(outcome: Outcome) -> dict[str, float]:
    return {
        **asdict(outcome),
        "hit_rate": outcome.hit_rate,
        "byte_hit_rate": outcome.byte_hit_rate,
        "possible_seconds": outcome.possible_seconds,
        "saved": outcome.saved,
    }


def _beats(point: Point) -> bool:
    return point.outcomes[OURS].saved_seconds >= point.outcomes[point.best_peer].saved_seconds


def markdown(found: Study) -> str:
    """Ours against the best peer and the bound, first in short and then everybody, a table a figure."""
    lines = ["# Cache hit rates", "", *_circumstances(found), "", *_summary(found)]
    for workload in found.named.values():
        size = workload.working_set / 1e9
        lines += ["", f"## {workload.name}", "", workload.about.strip().replace("\n    ", "\n"), ""]
        counts = f"{len(workload.uses):,} requests, {len(workload.items):,} items"
        lines += [f"Of one seed: {counts}, working set {size:.3g} GB."]
        for name, value in _SHOWN.items():
            lines += ["", *_table(name, value, found.of(workload.name))]
    return "\n".join(lines) + "\n"


def _circumstances(found: Study) -> list[str]:
    return ["; ".join(f"{name} {value}" for name, value in found.circumstances.items())]


def _summary(found: Study) -> list[str]:
    lines = [
        "Rebuild seconds saved, of those that a cache without a limit saves; (!): a peer saves more.",
        "Schedule: the best that was found by knowing the future; bound: what nobody can pass.",
        "",
        "| workload | cache | ray-envd | best peer | | schedule | bound | ours / schedule | ours / bound |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for point in found.points:
        ours, peer = point.outcomes[OURS], point.outcomes[point.best_peer]
        mark = "" if _beats(point) else " (!)"
        bound = point.bound / (ours.possible_seconds or 1.0)
        lines.append(
            f"| {point.workload} | {point.fraction:.0%} | {ours.saved:.1%}{mark} | {peer.saved:.1%} "
            f"| {point.best_peer} | {point.schedule.saved:.1%} | {bound:.1%} "
            f"| {_ratio(ours.saved_seconds, point.schedule.saved_seconds)} "
            f"| {_ratio(ours.saved_seconds, point.bound)} |"
        )
    return lines


def _ratio(ours: float, bound: float) -> str:
    return f"{ours / bound:.2f}" if bound else "-"


def _table(name: str, value: Callable[[Outcome], float], points: list[Point]) -> list[str]:
    lines = [
        f"| {name} | " + " | ".join(f"{point.fraction:.0%}" for point in points) + " |",
        "| --- |" + " ---: |" * len(points),
    ]
    for policy in POLICIES:
        cells = (f"{value(point.outcomes[policy]):.1%}" for point in points)
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    cells = (f"{value(point.schedule):.1%}" for point in points)
    lines.append("| best schedule found | " + " | ".join(cells) + " |")
    if name == "rebuild seconds saved":
        cells = (f"{point.bound / (point.outcomes[OURS].possible_seconds or 1):.1%}" for point in points)
        lines.append("| clairvoyant bound | " + " | ".join(cells) + " |")
    return lines


def charts(found: Study, stem: Path) -> None:
    """Seconds saved against cache size, a panel a workload: PNG and SVG."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - a second that the tables do not need

    columns = 3
    rows = -(-len(found.named) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(13, 3.8 * rows), squeeze=False)
    panels = [panel for line in grid for panel in line]
    for panel, workload in zip(panels, found.named.values(), strict=False):
        points = found.of(workload.name)
        sizes = [100 * point.fraction for point in points]
        bounds = [100 * point.bound / (point.outcomes[OURS].possible_seconds or 1) for point in points]
        panel.plot(sizes, bounds, color="0.6", linestyle="--", label="clairvoyant bound")
        reached = [100 * point.schedule.saved for point in points]
        panel.plot(sizes, reached, color="0.6", linestyle=":", label="best schedule found")
        for policy in POLICIES:
            saved = [100 * point.outcomes[policy].saved for point in points]
            panel.plot(sizes, saved, label=policy, marker=".", linewidth=2.5 if policy == OURS else 1.0)
        panel.set_title(workload.name)
        panel.set_xlabel("cache, % of the working set")
        panel.set_ylabel("rebuild seconds saved, %")
        panel.set_ylim(0, 102)
        panel.grid(alpha=0.3)
    for panel in panels[len(found.named) :]:
        panel.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.08 if rows > 1 else 0.16, 1, 1))
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=110)
    plt.close(figure)
