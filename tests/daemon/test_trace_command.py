"""``ray-envd trace``: a real daemon's life in a file that the simulator replays."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemons import Daemon
from helpers import wait_until
from processes import clean_environment
from raylet import MakeRaylet
from sources import make_zip

from ray_envd.agent.client import Client


@contextmanager
def tracing(daemon: Daemon, path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command at work, ended by Ctrl-C."""
    command = [sys.executable, "-m", "ray_envd", "trace", str(path), "--socket", str(daemon.socket), *options]
    with (
        path.with_suffix(".out").open("w") as out,
        subprocess.Popen(command, env=clean_environment(), stdout=out, stderr=out) as running,
    ):
        yield running
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            running.wait(20)


def read(path: Path) -> list[dict[str, Any]]:
    """What the file holds so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_trace(node: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """What is stored, built, taken, given back and evicted is told, by digests and nothing else."""
    raylet, path = make_raylet(node), tmp_path / "trace.jsonl"
    before = {"working_dir": make_zip(tmp_path / "before.zip", {"x": "1"}).as_uri()}
    after = {"working_dir": make_zip(tmp_path / "after.zip", {"y": "2"}).as_uri()}
    raylet.prepared(before)
    with tracing(node, path) as running, Client(node.socket) as client:
        wait_until(lambda: any(line["event"] == "stored" for line in read(path)))
        (old,) = (line["digest"] for line in read(path))
        raylet.prepared(after)
        raylet.prepared(after)
        raylet.delete(after)
        raylet.close()  # its references end with it
        wait_until(lambda: [line["event"] for line in read(path)].count("release") == 3)
        (new,) = (line["digest"] for line in read(path) if line["event"] == "build")
        client.remove(new)
        wait_until(lambda: read(path)[-1]["event"] == "evict")
    assert running.returncode == 0, path.with_suffix(".out").read_text()
    lines = read(path)
    of_new = [(line["event"], line.get("number")) for line in lines if line["digest"] == new]
    assert of_new == [
        ("build", None),
        ("acquire", 1),
        ("acquire", 1),
        ("release", 1),
        ("release", 1),
        ("evict", None),
    ]
    assert [line["event"] for line in lines if line["digest"] == old] == ["stored", "release"]
    assert all(line["bytes"] > 0 for line in lines if line["event"] in {"stored", "build"})
    assert ".zip" not in path.read_text()


def test_a_trace_that_is_full(node: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """The command ends of itself once the file is as large as it may be, with whole lines."""
    raylet, path = make_raylet(node), tmp_path / "trace.jsonl"
    env = {"working_dir": make_zip(tmp_path / "p.zip", {"z": "3"}).as_uri()}
    raylet.prepared(env)
    with tracing(node, path, "--max-size", "2000") as running:
        wait_until(lambda: read(path) != [])
        for _ in range(20):
            raylet.prepared(env)
        running.wait(20)
    assert 1000 < path.stat().st_size <= 2000
    assert read(path)[-1]["event"] == "acquire"
