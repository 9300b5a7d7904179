"""A soak told in Markdown, for people, and in JSON, for programs."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uv
from soak_chaos import TARGETS, Strike, summary
from soak_checks import Check, Tasks
from soak_cluster import RAY
from soak_place import HIGH_BYTES
from soak_watch import Watch

from ray_envd import __version__

_COLLECTED = re.compile(r"collected [a-z]+/[0-9a-f]+")
_OUTCOMES = ("done", "refused as expected", "raylet killed", "failed", "wrong")


@dataclass(frozen=True)
class Report:
    """Everything that is told of one run."""

    minutes: float
    seed: int
    started: float
    tasks: Tasks
    strikes: Sequence[Strike]
    watch: Watch
    checks: Sequence[Check]
    log: str
    notes: Sequence[str]

    @property
    def ok(self) -> bool:
        """Whether every invariant held."""
        return all(check.ok for check in self.checks)

    def figures(self) -> dict[str, Any]:
        """The numbers, by name."""
        outcomes = Counter(self.tasks.outcome(result) for result in self.tasks.results)
        return {
            "tasks": len(self.tasks.results),
            "outcomes": {name: outcomes[name] for name in _OUTCOMES},
            "attempts begun": len(self.tasks.attempts),
            "kills and jumps": {name: summary(self.strikes)[name] for name in TARGETS},
            "daemons": len(self.watch.last),
            "builds": self.watch.total("builds"),
            "hits": self.watch.total("hits"),
            "failures": self.watch.total("failures"),
            "collected objects": len(_COLLECTED.findall(self.log)),
            "most bytes stored": self.watch.most_stored,
            "most resident bytes": self.watch.most_resident,
            "raylets that failed to start": len(self.notes),
        }

    def json(self) -> str:
        """For programs."""
        value = {
            "minutes": self.minutes,
            "seed": self.seed,
            "figures": self.figures(),
            "seconds to start": self._seconds(),
            "checks": [asdict(check) for check in self.checks],
            "strikes": [asdict(strike) for strike in self.strikes],
            "notes": list(self.notes),
        }
        return json.dumps(value, indent=1)

    def _seconds(self) -> dict[str, tuple[int, float, float]]:
        """By kind: how many, and p50 and p99 of the seconds from submission to the task's first line."""
        found: dict[str, list[float]] = {}
        for result in self.tasks.results:
            if "began" in result and result["kind"] != "actor":
                found.setdefault(result["kind"], []).append(result["began"] - result["submitted"])
        return {
            kind: (len(values), statistics.median(values), sorted(values)[int(len(values) * 0.99)])
            for kind, values in sorted(found.items())
        }

    def markdown(self, command: str) -> str:
        """For people."""
        figures = self.figures()
        counted = ", ".join(str(figures[name]) for name in ("builds", "hits", "failures"))
        stored = f"{figures['most bytes stored'] >> 20} MiB; {HIGH_BYTES >> 20} MiB"
        lines = [
            "# Chaos soak",
            "",
            "Real Ray under load while daemon, links, tools and raylets are killed, the daemon's clock",
            "jumps and a small budget keeps collection busy. `tools/soak.py` wrote this and tells more.",
            "",
            "```console",
            f"$ {command}",
            "```",
            "",
            self._where(),
            "",
            "| what must hold | held | found |",
            "| --- | --- | --- |",
            *(f"| {c.name} | {'yes' if c.ok else '**no**'} | {_cell(c.found)} |" for c in self.checks),
            "",
            "| what happened | |",
            "| --- | ---: |",
            f"| tasks and calls of actors | {figures['tasks']} |",
            *(f"| … {name} | {count} |" for name, count in figures["outcomes"].items()),
            f"| times that one of them, or an actor, began on a worker | {figures['attempts begun']} |",
            *(f"| {_STRUCK[name]} | {count} |" for name, count in figures["kills and jumps"].items()),
            f"| daemons that served | {figures['daemons']} |",
            f"| builds, hits, failures, as last seen of each daemon | {counted} |",
            f"| objects collected | {figures['collected objects']} |",
            f"| most stored at any look; the high watermark | {stored} |",
            f"| most memory of a daemon | {figures['most resident bytes'] >> 20} MiB |",
            f"| raylets that did not come up at once | {figures['raylets that failed to start']} |",
            "",
            "From a task's submission to its first line, chaos, queue and the worker's own start included:",
            "",
            "| env | tasks | p50 s | p99 s |",
            "| --- | ---: | ---: | ---: |",
            *(f"| {kind} | {n} | {p50:.1f} | {p99:.1f} |" for kind, (n, p50, p99) in self._seconds().items()),
            "",
        ]
        return "\n".join(lines)

    def _where(self) -> str:
        when = datetime.fromtimestamp(self.started, UTC).strftime("%Y-%m-%d")
        cores, load = len(os.sched_getaffinity(0)), self.watch.load
        machine = f"{cores} cores with a load of {load:.0f} on average, Linux {platform.release()}"
        versions = (
            f"Python {platform.python_version()}, ray-envd {__version__}, Ray {RAY}, uv {_uv_version()}"
        )
        verdict = "Every invariant held." if self.ok else "FAILED."
        return f"{when}, {machine}, {versions}; {self.minutes:g} minutes, seed {self.seed}. **{verdict}**"

    def write(self, markdown: Path | None, data: Path | None, command: str) -> None:
        """Writes what was asked for."""
        if markdown is not None:
            markdown.parent.mkdir(parents=True, exist_ok=True)
            markdown.write_text(self.markdown(command))
        if data is not None:
            data.write_text(self.json())


_STRUCK = {
    "daemon": "SIGKILL of the daemon",
    "tool": "SIGKILL of uv, pip, a fetcher or a build",
    "raylet": "SIGKILL of a raylet",
    "link": "SIGKILL of a link, which ends its raylet",
    "clock": "jumps of the daemon's clock, by up to 400 days",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _uv_version() -> str:
    done = subprocess.run([uv.find_uv_bin(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split()[1] if done.returncode == 0 else "?"
