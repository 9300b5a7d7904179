"""Taking damaged packages out of uv's cache."""

import os
from collections.abc import Sequence
from pathlib import Path

from ray_envd.agent import process
from ray_envd.agent.errors import BuildError
from ray_envd.agent.process import Completed
from ray_envd.agent.python.tools import Toolbox
from ray_envd.cache.owner import Owner

#: Seconds for which uv waits for other uvs that use the cache.
_PATIENCE = 10


async def forget_packages(names: Sequence[str], cache: Path, owner: Owner) -> None:
    """Drops packages from uv's cache, so that their next installation downloads them again.

    Args:
        names: of distributions; at least one.
        cache: uv's, the owner's.
        owner: as whom.

    Raises:
        ToolMissingError: uv is not there.
        BuildError: uv could not do it.
    """
    done = await _clean(names, cache, owner)
    if done.returncode:
        # Something is being installed. Should it be one of these, it fails now: else it would link files that
        # are damaged.
        done = await _clean(["--force", *names], cache, owner)
    if done.returncode:
        raise BuildError("uv's cache cannot be cleaned", output=done.tail())


async def _clean(arguments: Sequence[str], cache: Path, owner: Owner) -> Completed:
    environment = {
        "UV_CACHE_DIR": str(cache),
        "UV_LOCK_TIMEOUT": str(_PATIENCE),
        "PATH": os.environ.get("PATH", ""),
        "HOME": owner.home,
    }
    argv = [Toolbox.bundled(cache).uv, "cache", "clean", "--no-config", *arguments]
    return await process.run(argv, env=environment, cwd="/", owner=owner)
