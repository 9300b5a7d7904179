"""A daemon with ten thousand objects and a hundred thousand references; benchmarks measure how fast it is."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from hellos import attached
from helpers import quick_folder
from large_store import LargeStore, make_large_store
from raylet import Raylet

pytestmark = pytest.mark.slow


OBJECTS, ENVS, REFERENCES = 10_000, 9_000, 108_000


@pytest.fixture(scope="module")
def large() -> Iterator[LargeStore]:
    """The module's store, in memory where that can be: forty thousand files are much for a busy disk."""
    folder = Path(tempfile.mkdtemp(prefix="large-", dir=quick_folder()))
    yield make_large_store(folder / "store", objects=OBJECTS, envs=ENVS, references=REFERENCES)
    shutil.rmtree(folder)


@pytest.fixture
def daemon(large: LargeStore, place: Path) -> Iterator[Daemon]:
    """A daemon that serves it."""
    daemon = Daemon(large.root, place / "d.sock", place / "daemon.log").start()
    yield daemon
    daemon.stop()


def ask(daemon: Daemon, *words: str) -> Any:
    """What the command line says, as JSON."""
    environment = {**os.environ, "RAY_ENVD_SOCKET": str(daemon.socket)}
    command = [sys.executable, "-m", "ray_envd", *words, "--json"]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_everything_is_counted_and_listed(daemon: Daemon, large: LargeStore) -> None:
    """Objects, references, sessions' envs: none is missing, and memory is told."""
    stats = daemon.stats()
    assert (stats.objects, stats.references) == (OBJECTS, REFERENCES)
    assert 0 < stats.resident_bytes < 500 * 1024**2
    listed = ask(daemon, "ls")
    assert len(listed) == OBJECTS
    assert {each["id"] for each in listed} == {large.key(number).id for number in range(OBJECTS)}
    assert sum(each["references"] for each in listed) == ENVS


def test_what_could_go_is_told(daemon: Daemon, large: LargeStore) -> None:
    """A dry run names every object that nobody uses, and removes none."""
    done = ask(daemon, "gc", "--dry-run", "--to", "0B")
    unused = {large.key(number).id for number in range(ENVS, OBJECTS)}
    assert {victim["object"]["id"] for victim in done["victims"]} == unused
    assert daemon.stats().objects == OBJECTS


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_sessions_come_back_to_their_envs(daemon: Daemon, large: LargeStore, place: Path, end: str) -> None:
    """An env of before is a hit and counts on from where it was, also in the next daemon."""
    number = 4711
    env, before = large.serialized(number), REFERENCES // ENVS
    for _ in range(2):
        with attached(daemon.socket, large.session_of(number), place) as port:
            raylet = Raylet(place, daemon.socket, {}, port=port)
            raylet.prepared(env)
            assert raylet.references() == before * ENVS // 10 + 1
            assert raylet.delete(env)
            assert daemon.stats().builds == 0
            getattr(daemon, end)()
        daemon.start()
        assert daemon.stats().references == REFERENCES
