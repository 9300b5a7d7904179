"""A compiled shim, the scenario's inputs, and how it goes when nothing dies."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Servers, raylets and packages of the neighbours' tests: tests/ has no packages.
sys.path[:0] = [str(HERE.parent / name) for name in (".", "cache", "daemon", "agent/fetch", "agent/python")]

from world import World  # noqa: E402


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """What all lives share."""
    with World.make() as made:
        yield made


@pytest.fixture(scope="session")
def loop_device() -> None:
    """For tests of a loss of power: only root can mount, and not in every container."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    found = subprocess.run(["losetup", "--find"], check=False, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
