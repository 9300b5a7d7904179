"""The tree that packages are installed into, and installing into it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from ray_envd.agent.process import Completed
from ray_envd.agent.python import uv
from ray_envd.agent.python.shadow import make_tree, shadow_python
from ray_envd.agent.python.tools import Work
from ray_envd.cache.owner import acting_as
from ray_envd.cache.removal import remove_tree

#: Sorts behind the ``.pth`` files of packages: what they add comes before the raylet's packages.
_PTH = "~ray-envd-base.pth"

#: Awaited before anything is downloaded.
Before = Callable[[], Awaitable[None]]


async def _at_once() -> None:
    """Nothing has to happen before packages are downloaded."""


def make(work: Work, target: Path) -> Path:
    """An overlay without packages at an empty or missing folder; returns site-packages. Blocking."""
    with acting_as(work.owner):
        if target.exists():
            target.rmdir()
        site_packages = make_tree(work.interpreter, target)
        # One line each: names of a line are not seen inside a comprehension.
        lines = [f"import site; site.addsitedir({folder!a})\n" for folder in work.interpreter.site_dirs]
        (site_packages / _PTH).write_text("".join(lines))
        return site_packages


def empty(work: Work, target: Path) -> None:
    """The overlay again as before anything was installed; blocking."""
    with acting_as(work.owner):
        for path in list(target.iterdir()):
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink()
    make(work, target)


def command(shadow: Path, target: Path) -> list[str]:
    """The arguments with which uv installs exactly what is listed into an overlay."""
    return ["pip", "install", "--no-deps", "--python", str(shadow_python(shadow)), "--prefix", str(target)]


async def install(
    work: Work,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    target: Path,
    before: Before = _at_once,
) -> Completed:
    """Installs with what uv's cache knows, or else from the index; returns how the last run of uv ended.

    A run that was killed, or found the disk full, leaves packages without some of their files, which the
    next one takes for installed and exits with 0. So each begins with an empty overlay.

    Args:
        work: for whom and where.
        arguments: :func:`command`'s for ``target``, and what is to be installed.
        variables: for uv's environment.
        target: the overlay.
        before: awaited before anything is downloaded.
    """
    completed = await uv.run(work, [*arguments, "--offline"], variables)
    if completed.returncode:
        await asyncio.to_thread(empty, work, target)
        await before()
        completed = await uv.run(work, arguments, variables)
    return completed
