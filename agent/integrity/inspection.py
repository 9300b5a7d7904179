"""Looking at an object's tree: by a child that runs as its owner and gives way to whatever else runs."""

import asyncio
import sys
from pathlib import Path

from ray_envd.agent import process
from ray_envd.agent.errors import EnvError
from ray_envd.cache import inventory
from ray_envd.cache.inventory import Found
from ray_envd.cache.owner import Owner


async def take_inventory(path: Path, owner: Owner, *, digests: bool) -> list[Found]:
    """What stands in a tree; see :func:`ray_envd.cache.inventory.take`.

    Raises:
        EnvError: it cannot be looked at.
    """
    argv = [sys.executable, "-I", "-m", inventory.__name__, str(path), *(["--digests"] if digests else [])]
    done = await process.run(argv, env={"PATH": "/usr/bin:/bin"}, cwd="/", owner=owner)
    mark = inventory.MARK
    try:
        if not done.returncode:
            lines = (line.removeprefix(mark) for line in done.lines if line.startswith(mark))
            return await asyncio.to_thread(inventory.parse, lines)
    except ValueError:
        pass  # killed in the middle of a line, or whatever a user's machine may print
    raise EnvError(
        f"{path} cannot be looked at", remedy="run `ray-envd doctor` on this node", output=done.tail()
    )
