"""Series of measurements, what they shall be, what they were made on; as tables or JSON."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Series:
    """One thing, measured again and again; every figure is kept.

    Attributes:
        what: from where to where, for people.
        unit: ``ms``, ``1/s`` or ``MiB``.
    """

    what: str
    unit: str = "ms"
    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """One measurement, in the series' unit."""
        self.values.append(value)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them is the middle half; of one value both are that."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        low, high = self.quartiles
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "quartiles": [low, high],
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
        }


@dataclass(frozen=True)
class Target:
    """What a ratio, or a series' median in its unit, shall be.

    Attributes:
        most: at most that.
        least: at least that; one of both is given.
        of: what a ratio's other side is: ``stock``, or the name of a limit such as ``uv alone``. Charts show
            what is compared with stock.
        limit: where it is out of reach, what stops us, in one sentence.
    """

    most: float | None = None
    least: float | None = None
    of: str = ""
    limit: str = ""

    def __post_init__(self) -> None:
        if (self.most is None) is (self.least is None):
            raise ValueError("a target is either a most or a least")

    def met(self, found: float) -> bool:
        """Whether a figure is as it shall be."""
        return found <= self.most if self.most is not None else found >= (self.least or 0.0)

    def __str__(self) -> str:
        word, bound = ("at most", self.most) if self.most is not None else ("at least", self.least)
        return f"{word} {bound:g}{f' of {self.of}' if self.of else ''}"


@dataclass
class Figures:
    """All series by name, and ratios of medians: name -> (for people, numerator, denominator).

    Targets are those of the ratio, or else of the series, of their name.
    """

    series: dict[str, Series]
    ratios: Mapping[str, tuple[str, str, str]]
    circumstances: dict[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.targets if name not in {*self.ratios, *self.series}]:
            raise ValueError(f"targets of nothing: {', '.join(unknown)}")

    def ratio(self, name: str) -> float | None:
        """A ratio of two medians; None if one of them was not measured."""
        _, above, below = self.ratios[name]
        if not self.series[above].values or not self.series[below].values:
            return None
        return self.series[above].median / self.series[below].median

    def found(self, name: str) -> float | None:
        """The figure of which there is a target; None if it was not measured."""
        if name in self.ratios:
            return self.ratio(name)
        return self.series[name].median if self.series[name].values else None

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "ratios": {name: self._ratio_json(name) for name in self.ratios if self.ratio(name) is not None},
            "targets": {name: self._target_json(name) for name in self.targets},
            "series": {name: series.to_json() for name, series in self.series.items() if series.values},
            "circumstances": self.circumstances,
        }

    def _ratio_json(self, name: str) -> dict[str, Any]:
        what, above, below = self.ratios[name]
        (low, high), (least, most) = self.series[above].quartiles, self.series[below].quartiles
        return {
            "what": what,
            "above": above,
            "below": below,
            "ratio": self.ratio(name),
            # The widest that the middle halves of both sides allow.
            "spread": [low / most, high / least],
        }

    def _target_json(self, name: str) -> dict[str, Any]:
        target, found = self.targets[name], self.found(name)
        ours, other = self._sides(name)
        return {
            **asdict(target),
            "found": found,
            "met": None if found is None else target.met(found),
            "ours": ours,
            "other": other,
        }

    def _sides(self, name: str) -> tuple[str, str | None]:
        """The series that is ours and that it is compared with: a target says which way is better."""
        if name not in self.ratios:
            return name, None
        _, above, below = self.ratios[name]
        less_is_better = not self.series[above].unit.endswith("/s")
        ours_above = (self.targets[name].most is not None) is less_is_better
        return (above, below) if ours_above else (below, above)

    def write(self, path: Path) -> None:
        """JSON into a file."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def show(self, console: Console, title: str) -> None:
        """Ratios first, what was missed and why, then medians with their spread, then the machine."""
        table = Table(title=title, title_justify="left")
        table.add_column("ratio of medians")
        for column in ("", "target", ""):
            table.add_column(column, justify="right")
        for name, (what, _, _) in self.ratios.items():
            if (ratio := self.ratio(name)) is not None:
                table.add_row(what, short(ratio), *self._verdict(name))
        for name in self.targets:
            if name not in self.ratios and (found := self.found(name)) is not None:
                series = self.series[name]
                table.add_row(series.what.strip(), f"{short(found)} {series.unit}", *self._verdict(name))
        console.print(table)
        for name, target in self.targets.items():
            found = self.found(name)
            if found is not None and not target.met(found) and target.limit:
                console.print(f"{name}: {target.limit}", style="yellow", markup=False)
        self._show_series(console)
        for name, value in self.circumstances.items():
            console.print(f"[dim]{name}: {value}[/]")

    def _verdict(self, name: str) -> tuple[str, str]:
        target, found = self.targets.get(name), self.found(name)
        if target is None or found is None:
            return "", ""
        unit = "" if name in self.ratios else f" {self.series[name].unit}"
        return f"{target}{unit}", "[green]met[/]" if target.met(found) else "[red]missed[/]"

    def _show_series(self, console: Console) -> None:
        table = Table()
        table.add_column("measured")
        for column in ("median", "middle half", "min", "max", "n"):
            table.add_column(column, justify="right")
        for series in self.series.values():
            if series.values:
                low, high = series.quartiles
                ends = (f"{short(end)} {series.unit}" for end in (min(series.values), max(series.values)))
                middle = f"{short(series.median)} {series.unit}"
                table.add_row(
                    series.what, middle, f"{short(low)} - {short(high)}", *ends, str(len(series.values))
                )
        console.print(table)


def short(number: float) -> str:
    """Three digits or so, whatever the size."""
    size = abs(number)
    if size >= 100:
        return f"{number:,.0f}"
    if size >= 10:
        return f"{number:.1f}"
    return f"{number:.2f}" if size >= 0.1 else f"{number:.2g}"


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on beside the programs; the load is what there was before the benchmark."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "kernel": platform.release(),
        "file_system": kind.stdout.strip(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
