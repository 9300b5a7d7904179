"""Podman with its own storage, and a registry; the fixtures are in tests/podman_fixtures.py."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from overlay_world import OverlayWorld, image_id, raylet_environment
from podman_world import PodmanWorld

HERE = Path(__file__).parent
# Worlds and servers of the neighbours' tests: tests/ has no packages.
sys.path[:0] = [str(HERE.parent / "agent" / name) for name in ("python", "fetch")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs podman."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.podman)


@pytest.fixture(scope="session")
def small_id(podman_world: PodmanWorld) -> str:
    """The id of the small image."""
    return image_id(podman_world, "localhost/small")


@pytest.fixture
async def overlay(podman_world: PodmanWorld, short_tmp: Path) -> AsyncIterator[OverlayWorld]:
    """A store of its own on the world's podman."""
    home = short_tmp / "home"
    await asyncio.to_thread(home.mkdir)
    made = OverlayWorld(short_tmp, sys.executable, raylet_environment(podman_world, home))
    await asyncio.to_thread(made.open)
    yield made
    await asyncio.to_thread(made.close)
