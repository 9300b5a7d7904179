"""Cores and memory, as a container limits them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_envd.agent import machine

GIB = 1024**3


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose /proc and control groups are folders."""
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def write(host: Path, membership: str, **files: str) -> None:
    """Files of control groups; in their names __ is / and _ a dot."""
    (host / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = host / "cgroup" / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_limits_it_is_the_machine(host: Path) -> None:
    """Also where there are no control groups at all."""
    assert machine.cores() == len(os.sched_getaffinity(0))
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory_bytes() == physical
    write(host, "0::/a/b\n", **{"memory-max": "max\n", "a__memory-max": "max\n", "cpu-max": "max 100000\n"})
    assert machine.memory_bytes() == physical
    assert machine.cores() == len(os.sched_getaffinity(0))


def test_the_lowest_limit_above_counts(host: Path) -> None:
    """Version 2: one of an outer group binds as much as the own; a quota is rounded up."""
    files = {"a__memory-max": str(2 * GIB), "a__b__memory-max": str(3 * GIB), "a__cpu-max": "150000 100000"}
    write(host, "0::/a/b\n", **files)
    assert machine.memory_bytes() == 2 * GIB
    assert machine.cores() == min(2, len(os.sched_getaffinity(0)))


def test_version_1_of_control_groups(host: Path) -> None:
    """Each controller has a tree of its own, whose root is the container's."""
    write(
        host,
        "9:name=systemd:/\n4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/\n",
        **{
            "memory__memory-limit_in_bytes": str(GIB),
            "cpu__cpu-cfs_quota_us": "50000",
            "cpu__cpu-cfs_period_us": "100000",
        },
    )
    assert machine.memory_bytes() == GIB
    assert machine.cores() == 1


@pytest.mark.parametrize(
    ("cores", "gibibytes", "starts", "more"), [(8, 64, 8, 24), (8, 4, 4, 1), (2, 6, 2, 4), (4, 0, 1, 1)]
)
def test_defaults(
    monkeypatch: pytest.MonkeyPatch, cores: int, gibibytes: int, starts: int, more: int
) -> None:
    """As many builds as cores, if memory allows; long ones beside them; at least one of each."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "memory_bytes", lambda: gibibytes * GIB)
    assert machine.default_parallelism() == starts
    assert machine.long_builds(starts) == more


def test_the_limit_of_open_files_is_raised() -> None:
    """To what the machine allows and a thousand connections need; never lowered."""
    code = """
import resource
from ray_envd.agent.machine import raise_file_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for soft in (256, hard):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    raise_file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(min(hard, 65536), soft), hard)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
