"""The runner of the benchmarks, with small scripts in the place of real ones."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import wait_until

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "benchmarks/run.py"
GOOD = '''
"""Measures a second."""
import sys
from pathlib import Path
sys.path[:0] = [{support!r}, {tools!r}]
from figures import Figures, Series, Target
series = {{"ours": Series("ours", values=[10.0]), "stock": Series("stock", values=[2000.0])}}
ratios = {{"times": ("a thing: stock to ray-envd", "stock", "ours")}}
figures = Figures(series, ratios, {{"cores": 2}}, {{"times": Target(least=100, of="stock")}})
figures.write(Path(sys.argv[sys.argv.index("--json") + 1]))
print("measured with", sys.argv[3:])
'''
BAD = '''
"""Fails."""
import sys
print("the hit was built", file=sys.stderr)
sys.exit(1)
'''
#: Has a process that nobody ends, and a folder that it removes when it is told to end.
HANGS = '''
"""Hangs."""
import signal, subprocess, sys, time
from pathlib import Path
folder = Path({folder!r})
folder.mkdir()
def ended(*_):
    folder.rmdir()
    sys.exit(130)
signal.signal(signal.SIGTERM, ended)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
Path({pid!r}).write_text(str(child.pid))
print("hangs", file=sys.stderr)
time.sleep(1000)
'''
LEAVES = '''
"""Leaves a process behind."""
import subprocess, sys
from pathlib import Path
subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
Path(sys.argv[2]).write_text("{}")
'''


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder with a benchmark of each sort."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    paths = {"support": str(ROOT / "benchmarks/support"), "tools": str(ROOT / "tools")}
    hangs = {"folder": str(tmp_path / "made"), "pid": str(tmp_path / "pid")}
    (folder / "good.py").write_text(GOOD.format(**paths).lstrip())
    (folder / "bad.py").write_text(BAD.lstrip())
    (folder / "hangs.py").write_text(HANGS.format(**hangs).lstrip())
    (folder / "leaves.py").write_text(LEAVES.lstrip())
    return folder


def command(scripts: Path, *words: str) -> list[str]:
    """The runner on these scripts."""
    return [sys.executable, str(RUN), "--scripts", str(scripts), *words]


def bench(scripts: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A run to its end."""
    return subprocess.run(command(scripts, *words), capture_output=True, text=True, check=False, timeout=120)


@contextlib.contextmanager
def hanging(scripts: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A run whose benchmark hangs, and the id of what that has started."""
    with subprocess.Popen(command(scripts, "--only=hangs"), stderr=subprocess.DEVNULL) as runner:
        file = scripts.parent / "pid"
        wait_until(lambda: file.exists() and file.read_text())
        yield runner, int(file.read_text())


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_fails_the_others_run(scripts: Path, tmp_path: Path) -> None:
    """What was measured is written, what failed is named with its words, and the exit code tells."""
    done = bench(scripts, "--only", "bad,good", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "failed: bad" in done.stderr
    assert "a thing" in done.stdout
    (file,) = (tmp_path / "out").glob("*.json")
    merged = json.loads(file.read_text())
    assert merged["date"] == file.stem
    good, bad = merged["benchmarks"]["good"], merged["benchmarks"]["bad"]
    assert (good["problem"], good["targets"]["times"]["met"]) == (None, True)
    assert good["about"] == "Measures a second."
    assert "the hit was built" in bad["problem"]
    assert json.loads((tmp_path / "out" / file.stem / "good.json").read_text()) == good


def test_pieces_of_a_run_add_up(scripts: Path, tmp_path: Path) -> None:
    """Another run into the same folder replaces what it measures and keeps the rest; arguments arrive."""
    bench(scripts, "--only", "bad", "--out", str(tmp_path / "out"))
    done = bench(scripts, "--only", "good", "--out", str(tmp_path / "out"), "--", "--rounds", "3")
    assert done.returncode == 0
    assert "measured with ['--rounds', '3']" in done.stdout
    (file,) = (tmp_path / "out").glob("*.json")
    assert set(json.loads(file.read_text())["benchmarks"]) == {"good", "bad"}


def test_one_that_hangs_is_ended(scripts: Path, tmp_path: Path) -> None:
    """It may clean up; what it leaves running is ended with it."""
    done = bench(scripts, "--only", "hangs", "--limit", "3", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "not done after 3 s" in done.stderr
    assert not (tmp_path / "made").exists()
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(scripts: Path, tmp_path: Path, number: signal.Signals) -> None:
    """^C ends the benchmark that runs, with all of it, and then the runner."""
    with hanging(scripts) as (runner, pid):
        time_out = time.monotonic() + 60
        runner.send_signal(number)
        assert runner.wait(time_out - time.monotonic()) == 130
        assert gone(pid)
        assert not (tmp_path / "made").exists()


def test_what_is_left_behind_is_wrong(scripts: Path) -> None:
    """Figures of a benchmark that does not clean up are not taken."""
    done = bench(scripts, "--only", "leaves")
    assert done.returncode == 1
    assert "left processes behind: 1" in done.stderr


def test_names(scripts: Path) -> None:
    """There is a list, and a name that is not in it is refused before anything runs."""
    done = bench(scripts, "--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["bad", "good", "hangs", "leaves"]
    assert "Measures a second." in done.stdout
    done = bench(scripts, "--only", "good,wrong")
    assert done.returncode == 2
    assert "no such benchmark: wrong" in done.stderr
    assert "measured" not in done.stdout


def test_every_script_says_what_it_is() -> None:
    """The real ones are found, and each has its line and its section in the README."""
    done = subprocess.run([sys.executable, str(RUN), "--list"], capture_output=True, text=True, check=True)
    page = (ROOT / "benchmarks/README.md").read_text()
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert lines
    for line in lines:
        assert len(line) == 2
        assert f"\n## {line[0]}.py\n" in page
