"""uv in the version that a spec asks for."""

import asyncio
import hashlib
import importlib.metadata
from dataclasses import replace
from pathlib import Path

from packaging.specifiers import SpecifierSet

from ray_envd.agent.python import overlay, uv
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.tools import Work, write_private
from ray_envd.cache.owner import acting_as
from ray_envd.cache.reflink import clones_files


async def with_uv_version(request: Request, work: Work, *, shadow: Path, folder: Path) -> Work:
    """The work with a uv that satisfies ``uv_version``: ours if it does, else one that is fetched once.

    Args:
        request: of the uv field; any other passes through.
        work: for whom.
        shadow: of the interpreter.
        folder: of the owner, where versions of uv stay; on the file system of the workdir.

    Raises:
        EnvError: that version cannot be had.
    """
    if not await asyncio.to_thread(wants_other_uv, request):
        return work
    wanted = request.tool_version
    target = folder / f"uv-{hashlib.sha256(f'{work.interpreter.digest} {wanted}'.encode()).hexdigest()[:16]}"
    binary = target / "bin" / "uv"
    if not await asyncio.to_thread(_exists, work, binary):
        work.report("installing", f"uv{wanted}")
        await _fetch(request, work.hiding(request.secrets), shadow, target)
    # Ours clones files by itself where that is possible; older ones have to be told.
    link_mode = "clone" if await asyncio.to_thread(_clones, work) else None
    return replace(work, tools=replace(work.tools, chosen_uv=str(binary), link_mode=link_mode))


def wants_other_uv(request: Request) -> bool:
    """Whether a spec asks for a version of uv that is not ours; blocking."""
    if request.field != "uv" or request.tool_version is None:
        return False
    ours = importlib.metadata.version("uv")
    return not SpecifierSet(request.tool_version.strip("() ")).contains(ours, prereleases=True)


async def _fetch(request: Request, work: Work, shadow: Path, target: Path) -> None:
    """Installs in the workdir and renames, so that two at once do no harm and a failure leaves nothing."""
    fresh = work.workdir / "uv"
    path = work.workdir / "uv.txt"
    await asyncio.to_thread(_prepare, work, fresh, path, f"uv{request.tool_version}\n")
    arguments = [*overlay.command(shadow, fresh), *request.options.transport, "-r", str(path)]
    variables = request.options.variables
    completed = await overlay.install(work, arguments, variables, target=fresh)
    await uv.require(work, arguments, completed, doing=f"install uv{request.tool_version}")
    await asyncio.to_thread(_rename, work, fresh, target)


def _prepare(work: Work, fresh: Path, path: Path, text: str) -> None:
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
    overlay.make(work, fresh)


def _rename(work: Work, fresh: Path, target: Path) -> None:
    with acting_as(work.owner):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fresh.rename(target)
        except OSError:
            if not (target / "bin" / "uv").exists():
                raise  # else somebody else was first


def _clones(work: Work) -> bool:
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return clones_files(work.workdir)


def _exists(work: Work, path: Path) -> bool:
    with acting_as(work.owner):
        return path.exists()
