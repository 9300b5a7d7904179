"""Runs the benchmarks one after the other, and writes what they found as JSON, a page of tables and a chart.

``make bench`` runs it; ``make bench ONLY=new_env,hits OUT=folder``. One that fails does not keep the others
from running: it is named at the end, and the exit code is 1. Whoever runs some of them on one day into one
folder gets one page of all of them.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
from page import markdown
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from runs import Benchmark, Outcome, benchmarks, merged, run

#: With matplotlib in it; `make bench` sets it up.
CHARTS_PYTHON = HERE.parent / ".work" / "bench" / "bin" / "python"
BUDGET = 30 * 60
console = Console(stderr=True, highlight=False)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="which there are")
    parser.add_argument("--only", default="", metavar="NAME[,NAME]", help="run these")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep what was found there")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="most of one script")
    parser.add_argument("--scripts", type=Path, default=HERE, metavar="FOLDER", help="where they are")
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="for each script")
    return parser.parse_args(argv)


def _chosen(there: dict[str, Benchmark], only: str) -> list[Benchmark]:
    """Those that are named, in that order; all if none is.

    Raises:
        ValueError: there is none of that name.
    """
    names = [name.strip().removesuffix(".py") for name in only.split(",") if name.strip()] or list(there)
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(there)}")
    return [there[name] for name in names]


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where results go: a folder that stays, or one that does not."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="reb-") as folder:
        yield Path(folder)


def _run_all(chosen: Sequence[Benchmark], folder: Path, asked: argparse.Namespace) -> list[Outcome]:
    """Each in turn; what one prints is shown when it has ended."""
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    budget = TextColumn(f"of at most {BUDGET // 60} min  [dim]{{task.fields[doing]}}[/]")
    with Progress(*columns, budget, console=console, transient=True) as progress:
        task = progress.add_task("benchmarks", total=len(chosen), doing="")
        for each in chosen:
            progress.update(task, description=each.name, doing="")
            target = folder / f"{each.name}.json"
            outcome = run(
                each,
                target,
                asked.arguments,
                asked.limit,
                lambda line: progress.update(task, doing=line[:60].replace("[", "(")),
            )
            progress.advance(task)
            sys.stdout.write(outcome.output)
            sys.stdout.flush()
            verdict = "[green]done[/]" if outcome.problem is None else "[red]failed[/]"
            console.print(f"{each.name}: {verdict} after {outcome.seconds:.0f} s")
            if outcome.problem is not None:
                console.print(outcome.problem, style="red", markup=False)
            outcomes.append(outcome)
    return outcomes


def _report(folder: Path, out: Path | None) -> None:
    """The page of all that is in the folder, on stdout and, if it is kept, in files with a chart."""
    date = folder.name
    found = merged(folder, date)
    sys.stdout.write(f"\n{markdown(found, with_chart=False)}")
    if out is None:
        return
    path = out / f"{date}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    if CHARTS_PYTHON.exists():
        subprocess.run([CHARTS_PYTHON, HERE / "support" / "results.py", path], check=True)
    else:
        console.print(f"no chart: there is no {CHARTS_PYTHON}; `make bench-report FROM={path}` makes both")


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    asked = _arguments(argv)
    there = benchmarks(asked.scripts, but=Path(__file__).resolve())
    if asked.list:
        for each in there.values():
            print(f"{each.name:18} {each.about}")
        return 0
    try:
        chosen = _chosen(there, asked.only)
    except ValueError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    began = time.monotonic()
    try:
        with _folder(asked.out) as out:
            folder = out / time.strftime("%Y-%m-%d")
            folder.mkdir(exist_ok=True)
            outcomes = _run_all(chosen, folder, asked)
            _report(folder, asked.out)
    except KeyboardInterrupt:
        console.print("interrupted; the benchmark that ran was ended")
        return 130
    return _told(outcomes, time.monotonic() - began)


def _told(outcomes: Sequence[Outcome], seconds: float) -> int:
    """The last lines, and the exit code."""
    console.print(f"{len(outcomes)} benchmarks in {seconds / 60:.1f} min of at most {BUDGET // 60}")
    failed = [each.benchmark.name for each in outcomes if each.problem is not None]
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red", markup=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
