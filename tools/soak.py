"""The chaos soak: real Ray under load while everything is killed that may be, and what must hold afterwards.

``make soak`` runs ten minutes of it; ``make soak ARGS="--minutes 60 --seed 7"`` more. Two jobs at a time,
each of a minute, run tasks and actors in changing envs on a head and two more raylets on one daemon, whose
store is too small for them. Every few seconds something is killed or the daemon's clock set. Strikes and
envs come from the seed; what they meet depends on the machine. The exit code is 1 if an invariant did not
hold.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import soak_checks as checks
from processes import NodeError
from rays import ROOT
from rich.console import Console
from soak_chaos import TARGETS, Chaos, Strike
from soak_cluster import Cluster, default_installs
from soak_place import Place
from soak_report import Report
from soak_watch import Watch
from soak_world import Draws, World, job_folder

DRIVER = ROOT / "tools" / "soak_driver.py"
_JOBS, _JOB_SECONDS, _INFLIGHT = 2, 60.0, 4
_DRAIN_SECONDS = 300.0  # for the last answers, on a machine that has other things to do
console = Console(highlight=False)


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    minutes: float = 10.0
    seed: int = 0
    more_nodes: int = 2
    targets: tuple[str, ...] = tuple(TARGETS)


@dataclass
class Jobs:
    """The drivers: as one ends the next begins."""

    cluster: Cluster
    seed: int
    running: list[tuple["subprocess.Popen[str]", Path, float]] = field(default_factory=list)
    number: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def _folder(self) -> Path:
        return self.cluster.place.folder

    @property
    def results(self) -> list[Path]:
        """What they wrote."""
        return sorted(self._folder.glob("results-*.jsonl"))

    @property
    def attempts(self) -> Path:
        """What the workers wrote."""
        return self._folder / "attempts.jsonl"

    def keep(self) -> None:
        """As many as there should be; called again and again."""
        for process, stop, until in list(self.running):
            if time.monotonic() > until:
                stop.touch()
            if process.poll() is not None:
                self._reap(process)
        while len([stop for _, stop, _ in self.running if not stop.exists()]) < _JOBS:
            self._start()

    def finish(self) -> None:
        """No more; waits for the last answers."""
        for _, stop, _ in self.running:
            stop.touch()
        for process, _, _ in list(self.running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_DRAIN_SECONDS + 60)
            if process.poll() is None:
                process.kill()
            self._reap(process)

    def _start(self) -> None:
        self.number += 1
        number, seed = self.number, self.seed * 1000 + self.number
        job, data = job_folder(self._folder / "jobs", str(number), seed)
        stop = self._folder / f"stop-{number}"
        log = (self._folder / f"job-{number}.log").open("w")
        asked = {
            "address": self.cluster.head.address,
            "world": str(self._folder / "world"),
            "seed": seed,
            "job": str(job),
            "data": data,
            "variables": {"SOAK_JOB": str(number)},
            "inflight": _INFLIGHT,
            "results": str(self._folder / f"results-{number}.jsonl"),
            "stop": str(stop),
            "attempts": str(self.attempts),
            "drain": _DRAIN_SECONDS,
        }
        with log:
            process = self.cluster.head.spawn([DRIVER], stdout=log)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        self.running.append((process, stop, time.monotonic() + _JOB_SECONDS))

    def _reap(self, process: "subprocess.Popen[str]") -> None:
        (entry,) = [each for each in self.running if each[0] is process]
        self.running.remove(entry)
        if process.wait() != 0:
            number = entry[1].name.removeprefix("stop-")
            words = (self._folder / f"job-{number}.log").read_text(errors="replace")[-1500:]
            self.problems.append(f"job {number} ended with {process.returncode}: {words}")

    def check(self) -> checks.Check:
        """Every driver came to its end."""
        found = "\n".join([f"{self.number} jobs", *self.problems[:3]])
        return checks.Check("every job ran to its end", not self.problems, found)


@dataclass
class Soak:
    """One run."""

    options: Options
    place: Place
    cluster: Cluster
    notes: list[str]
    say: Callable[[str], None]

    def run(self) -> Report:
        """Load and strikes, then calm, then what must hold."""
        started, options = time.time(), self.options
        world = World.make(self.place.folder / "world", options.seed)
        self.place.make()
        self.cluster.start()
        self.say(f"daemon {self.place.daemon_pid()}, {len(self.cluster.nodes)} raylets, {self.place.folder}")
        targets = {name: TARGETS[name] for name in options.targets}
        chaos, watch = Chaos(self.cluster, random.Random(options.seed), targets), Watch(self.cluster)
        jobs = Jobs(self.cluster, options.seed)
        jobs.keep()
        watch.start()

        def struck(strike: Strike) -> None:
            self.say(f"{strike.at - started:6.0f} s  {strike.target}: {strike.detail}")
            jobs.keep()

        chaos.run(options.minutes * 60, struck)
        chaos.calm()
        self.say("calm: waiting for the last answers")
        jobs.finish()
        self.place.wait_served()
        self.cluster.restore()
        tasks = checks.Tasks.read(jobs.results, jobs.attempts, chaos.strikes)
        watch.stop()
        found = [tasks.check(), jobs.check(), *checks.watched(watch), checks.sessions(self.cluster)]
        found += self._afterwards(Draws(world, options.seed + 1))
        log = self.place.log.read_text(errors="replace")
        return Report(
            options.minutes, options.seed, started, tasks, chaos.strikes, watch, found, log, self.notes
        )

    def _afterwards(self, draws: Draws) -> list[checks.Check]:
        """What must hold when the cluster is gone, and when the daemon is."""
        place, nodes = self.place, self.cluster.nodes
        found = [
            checks.growth(place, self.cluster.head.python, draws, 25),
            checks.whole(place),
            checks.verified(place),
        ]
        self.cluster.stop_nodes()
        found += [checks.nothing_held(place), checks.sizes(place), checks.residue(place)]
        code = place.end()
        found.append(checks.Check("the daemon ends in order", code == 0, f"exit code {code}"))
        found += [
            checks.no_process(place, nodes, place.tools),
            checks.logs(place, nodes),
            checks.undamaged(place),
        ]
        return found


@contextlib.contextmanager
def prepared(options: Options, say: Callable[[str], None], *, keep: bool = False) -> Iterator[Soak]:
    """A soak in folders of its own; whatever happens, its processes are gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sk-", dir="/tmp"))
    installs, notes = default_installs(os.getpid()), list[str]()
    place = Place(folder)
    cluster = Cluster(place, installs, options.more_nodes, notes.append)
    try:
        yield Soak(options, place, cluster, notes, say)
    finally:
        cluster.close()
        shutil.rmtree(installs, ignore_errors=True)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long things go wrong")
    parser.add_argument("--seed", type=int, default=1, help="of envs and strikes")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="what to strike")
    parser.add_argument("--report", type=Path, help="write a report in Markdown")
    parser.add_argument("--json", type=Path, help="write everything as JSON")
    parser.add_argument("--keep", action="store_true", help="leave store and logs where they are")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    options = Options(arguments.minutes, arguments.seed, targets=tuple(arguments.only))
    try:
        with prepared(options, lambda text: console.print(text, markup=False), keep=arguments.keep) as soak:
            report = soak.run()
    except KeyboardInterrupt:
        console.print("interrupted; everything was ended")
        return 130
    except NodeError as error:
        console.print(f"{error}", markup=False)
        return 1
    command = f'make soak ARGS="--minutes {arguments.minutes:g} --seed {arguments.seed}"'
    report.write(arguments.report, arguments.json, command)
    console.print(report.markdown(command), markup=False)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
