"""Compiling an environment's modules ahead of the workers that import them.

A worker that finds no ``.pyc`` writes one. In an environment that many share that would be a write into the
store, and where the environment is read-only each worker would compile everything anew.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from ray_envd.agent import process
from ray_envd.agent.python.platform import Runner
from ray_envd.cache.owner import Owner

_log = logging.getLogger(__name__)
_SCRIPT = Path(__file__).with_name("compile_script.py")


async def compile_modules(
    python: Path,
    site_packages: Path,
    owner: Owner,
    *,
    seconds: float,
    donors: Sequence[Path] = (),
    run: Runner = process.run,
) -> None:
    """Compiles every module of a site-packages folder at a low priority, as if a worker had imported it.

    That some cannot be compiled is no failure; nor is a crash of the compiler, or running out of time:
    workers then compile what is missing for themselves. Compiled again, nothing happens.

    Args:
        python: the environment's.
        site_packages: a folder of its own.
        owner: as whom; modules are compiled, never run.
        seconds: after which it is ended.
        donors: site-packages of environments from which compiled modules are linked, where both have the same
            source file.
        run: how, for an interpreter that is not the host's.

    Raises:
        ToolMissingError: the interpreter cannot be run.
    """
    source = await asyncio.to_thread(_SCRIPT.read_text)
    # -S: what .pth files of packages run is no part of this.
    argv = [str(python), "-I", "-S", "-c", source, str(site_packages), *map(str, donors)]
    try:
        async with asyncio.timeout(seconds):
            done = await run(argv, env={"PATH": "/usr/bin:/bin"}, cwd="/", owner=owner)
    except TimeoutError:
        _log.warning("%s is not compiled to its end: that took more than %g s", site_packages, seconds)
        return
    if done.returncode:
        _log.warning("%s could not be compiled: %s", site_packages, " / ".join(done.tail(3)))
