"""Nobody waits any more: a cancelled task, a killed actor, a job that ends take their build with them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import DRIVERS, STOCK
from daemons import Daemon
from rays import RayNode

# What builds slowly is shared with the tests of the daemon alone.
sys.path[:0] = [
    str(Path(__file__).parent.parent / name) for name in ("daemon", "agent/fetch", "agent/python")
]

from helpers import wait_until  # noqa: E402 - found by the lines above
from sources import Slow  # noqa: E402 - found by the line above

pytestmark = pytest.mark.skipif(STOCK, reason="stock's builds end with their time-outs")


@contextmanager
def driver(node: RayNode, kind: str, slow: Slow) -> Iterator["subprocess.Popen[str]"]:
    """One that waits for an env whose build is in its middle."""
    process = node.spawn([DRIVERS / "cancel_driver.py", kind])
    try:
        # Not in its arguments: the build's processes are known by what stands in its env.
        say(process, json.dumps(slow.env))
        wait_until(lambda: slow.begun and len(slow.processes) > 1, 60, "the build")
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: "subprocess.Popen[str]", word: str) -> None:
    """Tells a driver what to do."""
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def ends(slow: Slow, daemon: Daemon) -> None:
    """Its processes are gone soon after the cluster knows, and the daemon builds nothing."""
    wait_until(lambda: not slow.processes, 30, "the end of the build")
    wait_until(lambda: daemon.stats().building == 0, 5, "the end of all builds")


@pytest.mark.parametrize(("kind", "word"), [("task", "cancel"), ("actor", "kill")])
def test_what_is_given_up_is_not_built(
    node: RayNode, shared_daemon: Daemon, tmp_path: Path, kind: str, word: str
) -> None:
    """ray.cancel of a task and ray.kill of an actor that wait for their env reach the build of that env."""
    slow = Slow(tmp_path, 600)
    with driver(node, kind, slow) as process:
        say(process, word)
        ends(slow, shared_daemon)
        # A refusal is nobody's failure: who asks for the same env afterwards gets it.
        slow.hurry()
        if kind == "task":
            say(process, "again")
            assert process.stdout is not None
            assert any("ANSWER done" in line for line in process.stdout)


def test_a_job_that_ends_takes_its_build_with_it(
    node: RayNode, shared_daemon: Daemon, tmp_path: Path
) -> None:
    """A driver that is killed, as `ray job stop` does at last, is not built for."""
    slow = Slow(tmp_path, 600)
    with driver(node, "task", slow) as process:
        process.kill()
        ends(slow, shared_daemon)


def test_what_outlives_its_job_gets_its_env(node: RayNode, tmp_path: Path) -> None:
    """A detached actor, such as Serve's controller, starts actors when the job that made it has ended."""
    slow = Slow(tmp_path, 9)
    with driver(node, "leave", slow) as process:
        assert process.wait(60) == 0
    with driver(node, "ask", slow) as process:
        assert process.stdout is not None
        assert any("ANSWER done" in line for line in process.stdout)
    assert slow.begun == 1


def test_a_task_that_is_left_gets_its_env(node: RayNode, tmp_path: Path) -> None:
    """One of two tasks is cancelled: the build they wait for goes on for the other."""
    slow = Slow(tmp_path, 9)
    with driver(node, "task", slow) as process:
        say(process, "cancel")
        say(process, "again")
        assert process.stdout is not None
        assert any("ANSWER done" in line for line in process.stdout)
    assert slow.begun == 1
