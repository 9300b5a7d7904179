"""How a worker is started in a container."""

from ray_envd.agent.containers.images import Image
from ray_envd.agent.containers.platform import ImagePlatform
from ray_envd.agent.context import Container
from ray_envd.agent.errors import UnsupportedError
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.workshop import Bench


class Starts:
    """Decides how the containers of an image are run, within the daemon's policy."""

    async def container(
        self,
        image: Image,  # noqa: ARG002 - not served yet
        platform: ImagePlatform,  # noqa: ARG002 - not served yet
        spec: ImageSpec,
        bench: Bench,  # noqa: ARG002 - not served yet
    ) -> Container:
        """What a worker of this runtime env starts in.

        Raises:
            DeniedError: an option or mount that the policy does not allow.
            InvalidSpecError: an option that podman or Ray cannot do with.
        """
        raise UnsupportedError("images are not served yet", field=spec.field)
