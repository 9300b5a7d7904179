"""A compiled shim, the scenario's inputs, and how it goes when nothing dies."""

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
