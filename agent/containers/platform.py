"""An image's Python as what environments are built on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ray_envd.agent.containers.images import Image
from ray_envd.agent.errors import UnsupportedError
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.platform import Runner
from ray_envd.agent.workshop import Bench
from ray_envd.cache.owner import Owner


@dataclass(frozen=True)
class ImagePlatform:
    """The Python of one image; see :class:`ray_envd.agent.python.platform.Platform`.

    Attributes:
        interpreter: the one that imports Ray; all of its paths are paths in the image.
        image: podman's id.
        worker_path: of Ray's ``default_worker.py`` in the image.
    """

    interpreter: Interpreter
    image: str
    worker_path: str

    @asynccontextmanager
    async def tools(self, owner: Owner, *, read: Sequence[Path]) -> AsyncIterator[Runner]:
        """A container of the image, in which tools run one after the other."""
        yield await _not_yet(owner, read)


class Platforms:
    """Finds out what Python an image has, once per image."""

    async def of(self, image: Image, spec: ImageSpec, bench: Bench) -> ImagePlatform:  # noqa: ARG002 - not yet
        """The platform of an image.

        Raises:
            EnvError: it has no Python, none with Ray, or Ray of another version than the raylet's.
        """
        raise UnsupportedError("images are not served yet", field=spec.field)


async def _not_yet(_owner: Owner, _read: Sequence[Path]) -> Runner:
    raise UnsupportedError("images are not served yet", field="image")
