"""Benchmarks as child processes: found, run with a time limit, ended with all that they started."""

import ast
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from processes import end_marked, marked, wait_until

#: How long a script may take to remove what it made, once it was told to end.
GRACE = 60.0
#: Inherited by all that a script starts, so that all of it can be found.
_MARK = "BENCHMARK_RUN"
_TAIL = 15
#: Who was told to end may need one for it.
_LAST_MOMENT = 2.0


@dataclass(frozen=True)
class Benchmark:
    """A script that measures and writes its figures with ``--json FILE``."""

    name: str
    path: Path

    @property
    def about(self) -> str:
        """Its docstring's first line."""
        return (ast.get_docstring(ast.parse(self.path.read_text())) or "").partition("\n")[0]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: seconds, what was wrong if something was, and what it printed."""

    benchmark: Benchmark
    seconds: float
    problem: str | None
    output: str


def benchmarks(folder: Path, but: Path | None = None) -> dict[str, Benchmark]:
    """The scripts of a folder by name, without one of them."""
    paths = sorted(path for path in folder.glob("*.py") if path != but)
    return {path.stem: Benchmark(path.stem, path) for path in paths}


def run(
    benchmark: Benchmark, target: Path, arguments: Sequence[str], limit: float, say: Callable[[str], None]
) -> Outcome:
    """Runs one to its end, or for so many seconds; each line of its progress is passed on.

    Its figures are then in the target, or else what was wrong. Of an interruption nothing is left but the
    exception, and of the benchmark nothing in any case.
    """
    target.unlink(missing_ok=True)
    mark = f"{benchmark.name}-{secrets.token_hex(6)}"
    began = time.monotonic()
    with _started([str(benchmark.path), "--json", str(target), *arguments], mark, say) as child:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(limit)
        late = child.process.poll() is None
    seconds = time.monotonic() - began
    problem = f"not done after {limit:g} s" if late else child.problem()
    if problem is None and not target.exists():
        problem = "it wrote no figures"
    _complete(target, {"about": benchmark.about, "seconds": round(seconds, 1), "problem": problem})
    return Outcome(benchmark, seconds, problem, "".join(child.printed))


def _complete(target: Path, more: dict[str, Any]) -> None:
    """Figures of a run that went wrong are none."""
    figures = {} if more["problem"] else json.loads(target.read_text())
    target.write_text(json.dumps({**more, **figures}, indent=1) + "\n")


class _Child:
    """A script's process; both of its streams are read at once."""

    def __init__(self, process: subprocess.Popen[str], mark: str, say: Callable[[str], None]) -> None:
        self.process, self.mark = process, mark
        self.printed = list[str]()
        self._said, self._left = deque[str](maxlen=_TAIL), list[int]()
        streams = ((process.stdout, self.printed.append), (process.stderr, self._heard(say)))
        self._readers = [threading.Thread(target=_read, args=each, daemon=True) for each in streams]
        for reader in self._readers:
            reader.start()

    def _heard(self, say: Callable[[str], None]) -> Callable[[str], None]:
        def heard(line: str) -> None:
            self._said.append(line)
            say(line.strip())

        return heard

    def end(self) -> None:
        """Lets it remove what it made; what stays of it is ended by force, and remembered."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not marked(self.mark), _LAST_MOMENT)
        self._left = marked(self.mark)
        end_marked(self.mark)
        self.process.wait()
        for reader in self._readers:
            reader.join(5)

    def problem(self) -> str | None:
        """What was wrong with a run that has ended."""
        if code := self.process.returncode:
            return f"it ended with {code}: {''.join(self._said).strip() or 'without a word'}"
        return f"it left processes behind: {len(self._left)}" if self._left else None


def _read(stream: IO[str], each: Callable[[str], None]) -> None:
    for line in stream:
        each(line)


@contextlib.contextmanager
def _started(words: list[str], mark: str, say: Callable[[str], None]) -> Iterator[_Child]:
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", _MARK: mark},
        # ^C comes to the runner only, which tells the child to end, once.
        start_new_session=True,
    )
    child = _Child(process, mark, say)
    try:
        yield child
    finally:
        # Whoever is impatient must not leave half of it behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        child.end()
        signal.signal(signal.SIGINT, before)


def merged(folder: Path, date: str) -> dict[str, Any]:
    """The figures of all runs that wrote into a folder, as one document."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {"date": date, "benchmarks": found}
