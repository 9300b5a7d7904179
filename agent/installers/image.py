"""``image``, ``image_uri`` and ``container``: the container in which a worker runs."""

from typing import Any

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.images import Images
from ray_envd.agent.containers.platform import Platforms
from ray_envd.agent.containers.start import Starts
from ray_envd.agent.context import Contribution


class ImageInstaller:
    """Has the image, finds its Python, and tells the other fields: what they build stands on that."""

    field = "image"

    def __init__(self, images: Images, platforms: Platforms, starts: Starts) -> None:
        self._images, self._platforms, self._starts = images, platforms, starts

    def needs_working_dir(self, _value: Any) -> bool:
        """Never: nothing of the working dir is in an image."""
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        """The worker starts in a container of the image."""
        await self._starts.require_allowed(value, bench)
        image = await self._images.obtain(value, bench)
        platform = await self._platforms.of(image, value, bench)
        assert bench.platform is not None  # noqa: S101 - made with the bench of an env that names an image
        bench.platform.set_result(platform)
        container = await self._starts.container(image, platform, value, bench)
        return Contribution(container=container, objects=(image.entry.key,), built=image.is_new)
