"""Series of measurements, what they were made on, and both as a table or JSON."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
        }


@dataclass
class Figures:
    """All series by name, and ratios of medians: name -> (for people, numerator, denominator)."""

    series: dict[str, Series]
    ratios: Mapping[str, tuple[str, str, str]]
    circumstances: dict[str, Any] = field(default_factory=dict)

    def ratio(self, name: str) -> float | None:
        """A ratio of two medians; None if one of them was not measured."""
        _, above, below = self.ratios[name]
        if not self.series[above].values or not self.series[below].values:
            return None
        return self.series[above].median / self.series[below].median

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "ratios": {name: self.ratio(name) for name in self.ratios},
            "series": {name: series.to_json() for name, series in self.series.items() if series.values},
            "circumstances": self.circumstances,
        }

    def write(self, path: Path) -> None:
        """JSON into a file."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def show(self, console: Console, title: str) -> None:
        """Ratios first, then medians with their spread, then the machine."""
        table = Table(title=title, title_justify="left")
        table.add_column("ratio of medians")
        table.add_column("", justify="right")
        for name, (what, _, _) in self.ratios.items():
            if (ratio := self.ratio(name)) is not None:
                table.add_row(what, f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}")
        console.print(table)
        table = Table()
        table.add_column("measured")
        for column in ("median", "min", "max", "n"):
            table.add_column(column, justify="right")
        for series in self.series.values():
            if series.values:
                numbers = (series.median, min(series.values), max(series.values))
                cells = [f"{_short(number)} {series.unit}" for number in numbers]
                table.add_row(series.what, *cells, str(len(series.values)))
        console.print(table)
        for name, value in self.circumstances.items():
            console.print(f"[dim]{name}: {value}[/]")


def _short(number: float) -> str:
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


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
