"""Images: from the reference in a runtime env to one that is on this node and stays while it is used."""

from dataclasses import dataclass

from ray_envd.agent.errors import UnsupportedError
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.workshop import Bench
from ray_envd.cache.store import Entry


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this node.

    Attributes:
        entry: its object, held.
        id: podman's id (sha256 of its configuration): what containers are made of. It does not move
            as tags do.
        digest: ``sha256:…`` of its manifest, or the id where it was never in a registry.
        variables: the environment that the image sets.
        is_new: whether it was pulled for this request.
    """

    entry: Entry
    id: str
    digest: str
    variables: dict[str, str]
    is_new: bool


class Images:
    """Obtains images. One per daemon."""

    async def obtain(self, spec: ImageSpec, bench: Bench) -> Image:  # noqa: ARG002 - not served yet
        """The image, held until the bench closes.

        Raises:
            EnvError: it cannot be had.
        """
        raise UnsupportedError("images are not served yet", field=spec.field)
