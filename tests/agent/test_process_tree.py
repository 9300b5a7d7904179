"""Marks of a tool's processes, and the reaping of their orphans."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from helpers import wait_until

from ray_envd.agent import process_tree
from ray_envd.agent.process_tree import Brand


def sleeper(brand: Brand, **more: object) -> "subprocess.Popen[bytes]":
    return process_tree.start(brand, lambda: subprocess.Popen(["sleep", "60"], **more))  # type: ignore[call-overload,no-any-return]  # options of Popen by name


def test_a_brand_marks_its_own_run_only() -> None:
    """Another run of the same store has another one, and this process has none afterwards."""
    before = resource.getrlimit(10)
    brands = [Brand.new("/store"), Brand.new("/store")]
    processes = [sleeper(brand) for brand in brands]
    assert resource.getrlimit(10) == before
    assert not brands[0].marks(os.getpid())
    assert process_tree.end(brands[0], 5) == 0
    assert processes[0].wait(5) == -9
    assert processes[1].poll() is None
    assert process_tree.end(brands[1], 5) == 0
    assert processes[1].wait(5) == -9


def test_the_environment_marks_where_limits_were_set_anew() -> None:
    """A process that got fresh limits, as behind su, is found by its variable; and what it started."""
    brand = Brand.new("/store")
    code = "import resource, subprocess, sys, time; resource.setrlimit(10, (resource.RLIM_INFINITY,) * 2);"
    code += "subprocess.Popen(['sleep', '60'], env={}); time.sleep(60)"
    process = process_tree.start(
        brand, lambda: subprocess.Popen([sys.executable, "-I", "-c", code], env=dict(brand.variables))
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    child = int(wait_until(lambda: children.read_text().split(), 20, "its child")[0])
    assert process_tree.left_behind(brand)
    assert process_tree.end(brand, 5) == 0
    assert process.wait(5) == -9
    wait_until(lambda: not Path(f"/proc/{child}").exists(), 5, "its child's end")


def test_a_store_s_processes_are_known_by_either_mark() -> None:
    """The next daemon finds them without their environment, and without their brand."""
    branded = sleeper(Brand.new("/one"), env={})
    named = subprocess.Popen(["sleep", "60"], env={process_tree.STORE_VARIABLE: "/one"})
    other = sleeper(Brand.new("/two"), env={process_tree.STORE_VARIABLE: "/two"})
    assert process_tree.adopt("/one") == 2
    assert [branded.wait(5), named.wait(5), other.poll()] == [-9, -9, None]
    other.kill()
    other.wait(5)


_REAPS = """
import os, pathlib, subprocess, sys, time
from ray_envd.agent import process_tree
from ray_envd.agent.process_tree import Brand

def children():
    return pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

process_tree.become_reaper()
brand = Brand.new("/store")
leader = process_tree.start(brand, lambda: subprocess.Popen(["sh", "-c", "(sleep 60 & sleep 0.01) & exit 7"]))
os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
process_tree.reap()
assert leader.wait() == 7, "the leader belongs to who started it"
process_tree.ended(leader.pid)
deadline = time.monotonic() + 20
while not process_tree.left_behind(brand):
    assert time.monotonic() < deadline, "the orphan is seen"
assert process_tree.end(brand, 5) == 0
while children():
    assert time.monotonic() < deadline, "no zombie stays"
    process_tree.reap()
assert not process_tree.left_behind(brand)
print("well")
"""


def test_a_reaper_takes_orphans_and_leaves_leaders() -> None:
    """In a daemon no orphan of a build stays a zombie, and each tool's exit code reaches who waits for it."""
    done = subprocess.run([sys.executable, "-c", _REAPS], capture_output=True, text=True, check=False)
    assert done.stdout == "well\n", done.stderr
