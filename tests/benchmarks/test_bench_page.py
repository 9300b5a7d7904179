"""The page and the chart of benchmarks' results, made from a small run's JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks/support"))

from chart import bars  # noqa: E402 - found by the line above
from figures import Figures, Series, Target  # noqa: E402 - found by the line above
from page import markdown  # noqa: E402 - found by the line above

#: `make test` and `make test-fast` set it up.
BENCH_PYTHON = ROOT / ".work/bench/bin/python"


def run() -> dict[str, Any]:
    """Three benchmarks, of which one failed."""
    series = {
        "ours": Series("a new env: ray-envd", values=[50.0, 60.0, 55.0]),
        "stock": Series("a new env: stock", values=[6000.0, 5000.0, 7000.0]),
        "uv": Series("a new env: uv alone", values=[50.0, 50.0, 50.0]),
    }
    ratios = {
        "stock_to_ours": ("a new env: stock to ray-envd, as the raylet sees it", "stock", "ours"),
        "to_uv": ("a new env: ray-envd to uv alone", "ours", "uv"),
    }
    targets = {
        "stock_to_ours": Target(least=100, of="stock"),
        "to_uv": Target(most=1.05, of="uv alone", limit="A process has to be started."),
    }
    new = Figures(series, ratios, {"date": "now", "cores": 2, "package": "six"}, targets)
    series = {
        "mem": Series("resident, idle", "MiB", [48.0]),
        "rate": Series("hits: ray-envd", "1/s", [9000.0]),
        "rate_stock": Series("hits: stock", "1/s", [2000.0]),
    }
    ratios = {"rate": ("hits per second: stock to ray-envd", "rate_stock", "rate")}
    targets = {"mem": Target(most=60), "rate": Target(most=0.2, of="stock")}
    daemon = Figures(series, ratios, {"date": "then", "cores": 2}, targets)
    told = {
        "new_env": {"about": "New envs.", "problem": None, **new.to_json()},
        "daemon": {"about": "The daemon.", "problem": None, **daemon.to_json()},
        "other": {"about": "Another.", "problem": "it ended with 1: no podman\nnone"},
    }
    return {"date": "2026-01-02", "benchmarks": told}


def rows(page: str) -> list[list[str]]:
    """The cells of the page's first table, without its head."""
    lines = page[page.index("| what |") :].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_targets_come_first() -> None:
    """Each target with both sides, its ratio and whether it was met; what stops us below, failures too."""
    page = markdown(run())
    new, uv, memory, rate = rows(page)
    assert new[0] == "new_env: a new env, as the raylet sees it"
    assert new[1] == "55.0 ms (52.5 - 57.5 ms)"
    assert new[2] == "stock 6.00 s (5.50 - 6.50 s)"
    assert new[3:] == ["109 (stock to ray-envd)", "≥ 100", "met"]
    assert uv[2:] == [
        "uv alone 50.0 ms (50.0 - 50.0 ms)",
        "1.10 (ray-envd to uv alone)",
        "≤ 1.05",
        "**missed**",
    ]
    assert memory == ["daemon: resident, idle", "48.0 MiB (48.0 - 48.0 MiB)", "", "", "≤ 60 MiB", "met"]
    assert (rate[1].split()[0], rate[-1]) == ("9,000", "**missed**")
    head = page[: page.index("## new_env")]
    assert "- *new_env: a new env*: A process has to be started." in head
    assert "**other failed**: it ended with 1: no podman" in head


def test_circumstances() -> None:
    """What is alike everywhere is said once, what is not with its benchmark."""
    page = markdown(run())
    assert page.count("cores 2") == 1
    assert (
        page.index("cores 2") < page.index("## new_env") < page.index("package six") < page.index("## daemon")
    )


def test_bars() -> None:
    """Against stock more is better, whichever way the ratio was written; a limit's is as it is."""
    (new, rate), (uv,) = bars(run())
    assert (new.value, new.target, new.met) == (pytest.approx(6000 / 55), 100, True)
    assert (rate.value, rate.target, rate.met) == (pytest.approx(4.5), pytest.approx(5), False)
    assert rate.what == "daemon: hits per second"
    assert new.low < new.value < new.high
    assert (uv.value, uv.target, uv.of) == (pytest.approx(1.1), 1.05, "uv alone")


def test_drawn(tmp_path: Path) -> None:
    """The chart and the page are made from a JSON file alone, and again the same."""
    assert BENCH_PYTHON.exists(), "`make .work/bench/.ready` sets it up"
    (tmp_path / "2026-01-02.json").write_text(json.dumps(run()))
    command = [BENCH_PYTHON, ROOT / "benchmarks/support/results.py", tmp_path / "2026-01-02.json"]
    first, second = (_drawn(command, tmp_path) for _ in range(2))
    assert first == second
    assert (tmp_path / "2026-01-02.png").read_bytes().startswith(b"\x89PNG")
    assert ET.fromstring(first).tag.endswith("svg")
    assert "(2026-01-02.png)" in (tmp_path / "2026-01-02.md").read_text()


def _drawn(command: list[Path], folder: Path) -> str:
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT / "dev")})
    return (folder / "2026-01-02.svg").read_text()
