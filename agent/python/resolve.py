"""Which packages an environment must hold: the difference between what is asked for and what is there."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from ray_envd.agent.errors import EnvError, NetworkError, ResolutionError
from ray_envd.agent.python import uv
from ray_envd.agent.python.direct import identify
from ray_envd.agent.python.options import Sources
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.requirements import Requirement, at_commit, without_credentials
from ray_envd.agent.python.shadow import build_shadow, shadow_python
from ray_envd.agent.python.tools import Work, write_private
from ray_envd.cache.owner import acting_as

_SHOWN = 4


@dataclass(frozen=True)
class Lock:
    """An exact set of packages to install over an interpreter. It may be empty.

    Attributes:
        pins: (name, version or address without credentials), sorted; for people, and for keys.
        digest: the object's key: two requests with the same set over the same interpreter have the same.
            Where the real pip is the engine it resolves only while it installs, so there the digest is that
            of the request, and ``pins`` is empty.
        folders: names of packages that are built from local folders.
        lines: what is installed, as requirement lines. They may hold credentials: never write or log them.
    """

    pins: tuple[tuple[str, str], ...]
    digest: str
    folders: tuple[str, ...] = ()
    lines: tuple[str, ...] = field(repr=False, default=())

    @property
    def named(self) -> list[str]:
        """Each package, with its version where it has one."""
        return [f"{name}=={where}" if "/" not in where else name for name, where in self.pins]

    @property
    def shown(self) -> str:
        """The first few of them, and how many more there are."""
        named = self.named
        more = len(named) - _SHOWN
        return ", ".join(named[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


async def resolve(
    request: Request, work: Work, *, shadow: Path, file_digests: Mapping[Path, str], fresh: bool = False
) -> Lock:
    """Resolves a request over the interpreter.

    uv is asked offline first, and online only if something is not in its cache, or if an answer from the
    cache may not be the true one: several indexes, an upgrade, or ``fresh``. If the index cannot be reached
    although ``fresh`` asked for it, what is cached must do.

    Args:
        request: what is asked for.
        work: for whom, and with which tools.
        shadow: of ``work.interpreter`` (:func:`.shadow.build_shadow`).
        file_digests: of ``request.local_files``.
        fresh: whether versions that came out since they were cached count.

    Raises:
        ResolutionError: no set of packages fits, or it would change Ray's version.
        EnvError: uv failed for another reason.
    """
    for note in request.options.notes:
        work.report("note:", note)
    if request.engine == "pip":
        digest = request.digest(work.interpreter, file_digests)
        return Lock((), _digest("pip", digest))
    work = work.hiding(request.secrets)
    work.report("resolving", f"{len(request.requirements)} requirements")
    request = await identify(request, work, shadow, fresh=fresh)
    await asyncio.to_thread(_write, request, work)
    if work.tools.chosen_uv is not None:
        shadow = work.workdir / "shadow"
        await build_shadow(work.interpreter, shadow, owner=work.owner, shared=False)
    lines = await _dry_run(request, work, shadow, fresh=fresh)
    changes = uv.changes(lines)
    _refuse_ray(changes, work)
    return await asyncio.to_thread(_lock, request, work, changes, file_digests)


def requirements_file(work: Work) -> Path:
    """Where the request's lines stand while it is worked on."""
    return work.workdir / "requirements.txt"


def header(request: Request) -> list[str]:
    """The lines that say where packages come from, and what else stands in files."""
    if request.field == "pip":
        return request.options.sources.lines()
    return [" ".join((option.name, option.value or "")).strip() for option in request.file_options]


def flags(request: Request) -> list[str]:
    """The arguments that hold for every run of this request."""
    return [
        *(["--no-config"] if request.field == "pip" else []),
        *request.options.both,
        *request.options.transport,
    ]


def _write(request: Request, work: Work) -> None:
    lines = [*header(request), *(requirement.line() for requirement in request.requirements)]
    lines += [f"{option.name} {option.value}" for option in request.remote_files]
    constraints = work.workdir / "constraints.txt"
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if request.constraints:
            lines.append(f"--constraint {constraints}")
            write_private(constraints, "".join(f"{r.line()}\n" for r in request.constraints))
        write_private(requirements_file(work), "".join(f"{line}\n" for line in lines))


async def _dry_run(request: Request, work: Work, shadow: Path, *, fresh: bool) -> Sequence[str]:
    arguments = ["pip", "install", "--dry-run", "--python", str(shadow_python(shadow))]
    arguments += [*flags(request), *request.options.resolve, "-r", str(requirements_file(work))]
    variables = request.options.variables
    online = fresh or request.options.fresh or request.options.sources.several_remote
    # What a configuration file says of indexes is not counted: more than one is assumed.
    online = online or any("index" in text or "find-links" in text for text in request.configuration)
    if not online and "--offline" not in arguments:
        offline = await uv.run(work, [*arguments, "--offline"], variables)
        if offline.returncode == 0:
            return offline.lines
    try:
        return (await uv.run_checked(work, arguments, variables, doing="resolve the requirements")).lines
    except NetworkError:
        if not fresh:
            raise
        offline = await uv.run(work, [*arguments, "--offline"], variables)
        if offline.returncode:
            raise
        work.report("note:", "the index cannot be reached; resolved from what is cached")
        return offline.lines


def _refuse_ray(changes: Sequence[tuple[str, str | None, str | None]], work: Work) -> None:
    """Stock's check, made before anything is installed (``dependency_utils.check_ray``)."""
    current = work.interpreter.ray_version
    for name, version, url in changes:
        if canonicalize_name(name) == "ray" and current is not None and version != current:
            raise ray_changed(work, version or work.redact(url or ""))


def ray_changed(work: Work, wanted: str) -> EnvError:
    """Stock's error."""
    current = work.interpreter.ray_version
    return ResolutionError(
        f"Changing the ray version is not allowed: current version: {current}, wanted version: {wanted}, "
        f"current path: {work.interpreter.ray_path}",
        field=work.field,
        remedy="ensure that the requirements do not install a different version of Ray",
    )


def _lock(
    request: Request,
    work: Work,
    changes: Sequence[tuple[str, str | None, str | None]],
    file_digests: Mapping[Path, str],
) -> Lock:
    pins: list[tuple[str, str]] = []
    lines: list[str] = []
    direct = {r.name: r for r in request.requirements if r.url is not None}
    for written, version, url in changes:
        name = canonicalize_name(written)
        if name in direct:
            pins.append((name, work.redact(_identity(direct[name], file_digests))))
            lines.append(direct[name].line())
        elif url is not None:  # by a constraint, or in a file on another machine
            pins.append((name, work.redact(without_credentials(url))))
            lines.append(f"{name} @ {url}")
        else:
            pins.append((name, version or ""))
            lines.append(" ".join((f"{name}=={version}", *_hashes(request, name))))
    with acting_as(work.owner):
        index = _index_digest(request.options.sources, frozenset(name for name, _ in pins))
        folders = [name for name, _ in pins if name in direct and _is_folder(direct[name])]
    made_with = sorted({*request.options.both, *_format_control(request)})
    origin = [index, made_with] if pins else []
    digest = _digest("uv", work.interpreter.digest, sorted(pins), origin, request.check)
    return Lock(tuple(sorted(pins)), digest, tuple(folders), tuple(sorted(lines)))


def _format_control(request: Request) -> list[str]:
    """Option lines of files that decide whether a wheel is downloaded or built."""
    binary = ("--no-binary", "--only-binary")
    return [str(option) for option in request.file_options if option.name in binary]


def _identity(requirement: Requirement, file_digests: Mapping[Path, str]) -> str:
    """What a direct reference is known by: content where it can be had, else the address."""
    if requirement.local is not None:
        return requirement.identity(file_digests)
    address = without_credentials(at_commit(requirement))
    return " ".join((address, *sorted(requirement.hashes)))


def _is_folder(requirement: Requirement) -> bool:
    return requirement.local is not None and not requirement.editable and requirement.local.is_dir()


def _hashes(request: Request, name: str) -> list[str]:
    named = [r for r in (*request.requirements, *request.constraints) if r.name == name]
    return [f"--hash={value}" for requirement in named for value in requirement.hashes]


def _index_digest(sources: Sources, names: frozenset[str]) -> str:
    relevant = sources.relevant(names)
    places = [without_credentials(place) for place in (*relevant.indexes, *relevant.find_links)]
    return _digest("sources", places, relevant.no_index, relevant.stamp(names))


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
