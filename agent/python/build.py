"""Making a locked set into an environment: an overlay whose imports fall through to the raylet's Python."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from functools import partial
from pathlib import Path

from packaging.utils import canonicalize_name

from ray_envd.agent.errors import BuildError
from ray_envd.agent.python import overlay, pip, uv
from ray_envd.agent.python.interpreter import Distribution, Interpreter
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.resolve import Lock, flags, header, ray_changed
from ray_envd.agent.python.scripts import retarget
from ray_envd.agent.python.shadow import make_tree, shadow_python, write_metadata
from ray_envd.agent.python.tool_errors import interrupted
from ray_envd.agent.python.tools import Work, write_private
from ray_envd.cache.owner import acting_as
from ray_envd.cache.removal import remove_tree

_DOING = "install the packages"
_LOCAL_TAG = re.compile(r"^Tag: .*-linux_\w+$", re.MULTILINE)


@dataclass(frozen=True)
class Built:
    """A finished environment."""

    python: Path
    site_packages: Path


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker needs to run in an environment; stock gets the same by sourcing ``bin/activate``."""

    py_executable: str
    path: tuple[str, ...]
    variables: dict[str, str]


#: Awaited once, before anything is downloaded; the file holds what is to be installed.
Ahead = Callable[[Path], Awaitable[None]]


async def _anything(_lock_file: Path) -> None:
    """Whatever is ahead, there is room for it."""


async def build(
    lock: Lock,
    request: Request,
    work: Work,
    *,
    shadow: Path,
    target: Path,
    ahead: Ahead = _anything,
) -> Built:
    """Makes the environment at its final path, an empty or missing folder.

    On any failure the target holds a torso that the caller removes. Where uv's cache does not hold
    everything, ``ahead`` is awaited before the rest is downloaded. Where the real pip is the engine, nobody
    knows what is ahead, and it is not asked.

    Raises:
        EnvError: the tool failed; or packages conflict and the request asked for a check.
    """
    work = work.hiding(request.secrets)
    site_packages = await asyncio.to_thread(overlay.make, work, target)
    built = Built(target / "bin" / "python", site_packages)
    if request.engine == "pip":
        await pip.install(request, work, built.python, shadow=shadow, target=target)
    elif lock.lines:
        work.report("installing", lock.shown)
        await asyncio.to_thread(_write, lock, request, work)
        await _install(lock, request, work, shadow, target, ahead)
        # A driver that has just connected hears the last lines only: they name what is there.
        work.report("installed", lock.shown)
    await asyncio.to_thread(_finish, work, shadow, target)
    await _check_ray(work, site_packages)
    if request.check:
        await check(request, work, site_packages)
    return built


def worker_facts(target: Path, interpreter: Interpreter) -> WorkerFacts:
    """How a worker starts in the environment at this path."""
    own = str(target / "bin")
    below = (f"{interpreter.prefix}/bin",) if interpreter.is_venv else ()
    return WorkerFacts(f"{own}/python", (own, *below), {"VIRTUAL_ENV": str(target)})


async def check(request: Request, work: Work, site_packages: Path) -> None:
    """``uv pip check`` over all that the environment can import, as stock does.

    Raises:
        BuildError: something is missing or of a wrong version; the tool's lines say what.
    """
    work.report("checking", "for conflicts")
    view = work.workdir / "view"
    await asyncio.to_thread(_view, work, site_packages, view)
    arguments = ["pip", "check", "--python", str(shadow_python(view))]
    completed = await uv.run(work, [*arguments, "--no-config"], {})
    if completed.killed_by:
        raise interrupted("uv", completed, field=work.field, log=None, doing="check for conflicts")
    if completed.returncode:
        raise BuildError(
            f"{request.field}_check found conflicts",
            field=work.field,
            remedy=f"change the requirements, or leave {request.field}_check out",
            output=completed.tail(),
        )


def _write(lock: Lock, request: Request, work: Work) -> None:
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(_lock_file(work), "".join(f"{line}\n" for line in (*header(request), *lock.lines)))


def _lock_file(work: Work) -> Path:
    return work.workdir / "lock.txt"


async def _install(
    lock: Lock, request: Request, work: Work, shadow: Path, target: Path, ahead: Ahead
) -> None:
    arguments = [*overlay.command(shadow, target), *flags(request), "-r", str(_lock_file(work))]
    # uv takes a folder for unchanged if its pyproject.toml is; whether it is, our key says.
    arguments += [word for name in lock.folders for word in ("--refresh-package", name)]
    variables, before = request.options.variables, partial(ahead, _lock_file(work))
    if work.interpreter.image:
        if not lock.folders and await _install_wheels(arguments, variables, work, target, before):
            return
        await asyncio.to_thread(overlay.empty, work, target)
        await _install_built(arguments, variables, work, target, before)
    elif "--offline" in arguments or lock.folders:
        await before()
        await uv.run_checked(work, arguments, variables, doing=_DOING)
    else:
        completed = await overlay.install(work, arguments, variables, target=target, before=before)
        await uv.require(work, arguments, completed, doing=_DOING)


async def _install_built(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    work: Work,
    target: Path,
    before: overlay.Before,
) -> None:
    """Installs over an image with a cache of uv's own, see :func:`_install_wheels`."""
    own_cache = target.with_name("uv-cache")  # in the object's folder: its growth is watched
    await before()
    own = replace(work, tools=replace(work.tools, cache_dir=own_cache))
    await uv.run_checked(own, arguments, variables, doing=_DOING)
    await asyncio.to_thread(_remove, work, own_cache)


async def _install_wheels(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    work: Work,
    target: Path,
    before: overlay.Before,
) -> bool:
    """Installs over an image what needs no build; False where something does.

    uv keeps what it builds by the version of Python, whichever libc it was built with, and would give the
    host what an image built, and the other way round. So nothing is built into the common cache, and nothing
    taken from it that was: such an environment is made with a cache of its own.
    """
    installing = [*arguments, "--no-build"]
    completed = await overlay.install(work, installing, variables, target=target, before=before)
    if completed.returncode:
        return False
    return not await asyncio.to_thread(_has_local_builds, work, target)


def _has_local_builds(work: Work, target: Path) -> bool:
    """Whether a package has native code that was built on some machine, not for all (PEP 600 tags)."""
    with acting_as(work.owner):
        folders = (target / work.interpreter.purelib).glob("*.dist-info/WHEEL")
        return any(_LOCAL_TAG.search(path.read_text(encoding="utf-8")) for path in folders)


def _remove(work: Work, folder: Path) -> None:
    with acting_as(work.owner):
        remove_tree(folder)


def _finish(work: Work, shadow: Path, target: Path) -> None:
    with acting_as(work.owner):
        (target / ".lock").unlink(missing_ok=True)  # uv's, for installers at the same time
        retarget(target / "bin", shadow_python(shadow), target / "bin" / "python")


async def _check_ray(work: Work, site_packages: Path) -> None:
    """Where the engine is pip, only the finished environment shows whether Ray was changed."""
    found = await asyncio.to_thread(_ray_in, work, site_packages)
    if found is not None and work.interpreter.ray_version not in {None, found}:
        raise ray_changed(work, found)


def _ray_in(work: Work, site_packages: Path) -> str | None:
    with acting_as(work.owner):
        names = [path.name for path in site_packages.glob("ray-*.dist-info")]
    matches = [re.fullmatch(r"ray-(.+)\.dist-info", name) for name in names]
    return next((match[1] for match in matches if match), None)


def _view(work: Work, site_packages: Path, view: Path) -> None:
    """An environment of metadata: what the overlay holds, and of the interpreter what it does not replace."""
    with acting_as(work.owner):
        combined = make_tree(work.interpreter, view)
        own = list(_installed(site_packages))
        names = {dist.name for dist in own}
        for dist in (*own, *(d for d in work.interpreter.distributions if d.name not in names)):
            write_metadata(combined, dist)


def _installed(site_packages: Path) -> Iterator[Distribution]:
    for folder in site_packages.glob("*.dist-info"):
        headers = HeaderParser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
        yield Distribution(
            name=canonicalize_name(headers["Name"]),
            version=headers["Version"],
            requires=tuple(headers.get_all("Requires-Dist") or ()),
            extras=tuple(headers.get_all("Provides-Extra") or ()),
            requires_python=headers["Requires-Python"],
        )
