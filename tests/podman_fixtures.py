"""Fixtures for every test with containers, on real Ray or not. Once a session (with xdist: a worker's) each.

``podman_world`` has the small image from the beginning; ``make_image`` derives others from it by a layer of
files and pushes them to ``registry``, which takes milliseconds and neither podman nor a container.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import small_image as small_images
from helpers import open_folder, wheel_files
from oci import OciImage
from podman_world import PodmanWorld
from registries import Registry
from users import User

MakeImage = Callable[..., str]


@pytest.fixture(scope="session")
def podman_folder() -> Iterator[Path]:
    """A short folder for worlds and registries, which every user can enter."""
    with open_folder("rp-") as folder:
        yield folder


@pytest.fixture(scope="session")
def small_image() -> OciImage:
    """The small image with Python and Ray."""
    return small_images.make()


@pytest.fixture(scope="session")
def registry(podman_folder: Path) -> Iterator[Registry]:
    """A registry that speaks plain HTTP. Who stops it starts it again."""
    registry = Registry(podman_folder / "registry").start()
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def podman_world(podman_folder: Path, small_image: OciImage, registry: Registry) -> Iterator[PodmanWorld]:
    """A storage that knows the registry, with the small image as ``localhost/small:latest``."""
    world = PodmanWorld.make(podman_folder / "world", [registry.address])
    yield world
    world.close()


@pytest.fixture(scope="session")
def rootless_world(
    podman_folder: Path, small_image: OciImage, registry: Registry, other_users: None
) -> Iterator[PodmanWorld]:
    """The same as ``podman_world`` for an ordinary user, who is made and removed. Needs root.

    The first container of an image takes him seconds: podman makes a copy of its layers that is his.
    """
    user = User.make(podman_folder)
    world = PodmanWorld.make(user.home / "world", [registry.address], user=user)
    yield world
    world.close()


@pytest.fixture(scope="session")
def make_image(podman_folder: Path, small_image: OciImage, registry: Registry) -> MakeImage:
    """``make_image(name, {package: version}, …)`` pushes a small image with more in it; returns its name."""

    def make(
        repository: str,
        packages: Mapping[str, str] | None = None,
        *,
        tag: str = "latest",
        files: Mapping[str, bytes] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Pushes it.

        Args:
            repository: where to.
            packages: tiny ones of one module, which knows its version, installed as a wheel would.
            tag: the image's name.
            files: by absolute path.
            variables: of the image's environment.
        """
        site = small_images.site_packages()
        content = dict(files or {})
        for name, version in (packages or {}).items():
            content |= {f"{site}/{path}": text.encode() for path, text in wheel_files(name, version).items()}
        image = small_image.derive(podman_folder / "layers", content, variables)
        return registry.push(image, repository, tag)

    return make
