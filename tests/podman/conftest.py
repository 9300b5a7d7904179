"""Podman with its own storage, and a registry; the fixtures are in tests/podman_fixtures.py."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from image_world import ImageNode, Toll
from overlay_world import OverlayWorld, image_id, raylet_environment
from podman_world import PodmanWorld
from registries import Registry

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


@pytest.fixture(scope="module")
def toll(registry: Registry) -> Iterator[Toll]:
    """Stands before the registry, and can be slow or hang up."""
    made = Toll(registry.port)
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, podman_folder: Path, registry: Registry, toll: Toll
) -> Iterator[PodmanWorld]:
    """An empty storage of the module's own."""
    folder = podman_folder / request.module.__name__.removeprefix("test_")
    made = PodmanWorld.make(folder, [registry.address, toll.address], small=False)
    yield made
    made.close()


@pytest.fixture
async def node(tmp_path: Path, world: PodmanWorld) -> AsyncIterator[ImageNode]:
    """A store of its own on the module's storage."""
    made = await ImageNode.make(tmp_path, world)
    yield made
    await made.close()


@pytest.fixture
async def overlay(podman_world: PodmanWorld, short_tmp: Path) -> AsyncIterator[OverlayWorld]:
    """A store of its own on the world's podman."""
    home = short_tmp / "home"
    await asyncio.to_thread(home.mkdir)
    made = OverlayWorld(short_tmp, sys.executable, raylet_environment(podman_world, home))
    await asyncio.to_thread(made.open)
    yield made
    await asyncio.to_thread(made.close)
