"""What stands behind direct references: names, hashes and commits.

A URL or a path says neither which package it is nor whether its content has changed: ``https://host/main.zip``
means another file tomorrow. uv finds out (PEP 751, ``pylock.toml``), so that two contents are two
environments, and what is installed is what was resolved.
"""

import asyncio
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ray_envd.agent.python import uv
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.requirements import Requirement, local_path, without_credentials
from ray_envd.agent.python.shadow import shadow_python
from ray_envd.agent.python.tools import Work, write_private
from ray_envd.cache.owner import acting_as

#: Options of an installation that ``uv pip compile`` does not have.
_NOT_FOR_COMPILE = {"--compile-bytecode", "--no-editable", "--no-verify-hashes", "--require-build-hashes"}


@dataclass(frozen=True)
class _Found:
    """What uv says of one direct reference."""

    name: str
    sha256: str = ""
    commit: str = ""


async def identify(request: Request, work: Work, shadow: Path, *, fresh: bool) -> Request:
    """The request with the name, and the hash or the commit, of every direct reference.

    Raises:
        EnvError: what is named cannot be had.
    """
    direct = [requirement for requirement in request.requirements if requirement.url is not None]
    if not direct:
        return request
    path = work.workdir / "direct.txt"
    await asyncio.to_thread(_write, work, path, direct)
    arguments = ["pip", "compile", "--no-deps", "--format", "pylock.toml", "--no-header", "--no-annotate"]
    arguments += ["--no-config", "--python", str(shadow_python(shadow)), str(path)]
    arguments += [word for word in request.options.both if word not in _NOT_FOR_COMPILE]
    variables = request.options.variables
    completed = None
    work = replace(work, tools=replace(work.tools, chosen_uv=None))  # a chosen one may be too old for this
    if not fresh:
        completed = await uv.run(work, [*arguments, "--offline"], variables)
    if completed is None or completed.returncode:
        online = [*arguments, *request.options.transport, *(["--refresh"] if fresh else [])]
        completed = await uv.run_checked(work, online, variables, doing="find out what a direct reference is")
    found = _read(completed.lines)
    return replace(
        request,
        requirements=tuple(_identified(requirement, found, work) for requirement in request.requirements),
    )


def _read(lines: Sequence[str]) -> dict[str, _Found]:
    """By (redacted) address or absolute path."""
    start = next((i for i, line in enumerate(lines) if line.startswith("lock-version")), len(lines))
    end = next((i for i, line in enumerate(lines) if i > start and line.startswith("Resolved ")), len(lines))
    try:
        packages = tomllib.loads("\n".join(lines[start:end])).get("packages", [])
    except tomllib.TOMLDecodeError:
        return {}
    found: dict[str, _Found] = {}
    for package in packages:
        for kind in ("archive", "directory", "vcs"):
            if kind in package:
                found[_place(package[kind])] = _of(package["name"], package[kind])
    return found


def _of(name: str, source: Mapping[str, Any]) -> _Found:
    return _Found(
        canonicalize_name(name), source.get("hashes", {}).get("sha256", ""), source.get("commit-id", "")
    )


def _place(source: Mapping[str, Any]) -> str:
    if "path" in source:
        return os.path.normpath(str(source["path"]))
    return _bare(str(source["url"]))


def _bare(url: str) -> str:
    """An address without what uv may leave out: the user, the fragment, the revision of a repository."""
    local = local_path(url)
    if local is not None:
        return os.path.normpath(local)
    return without_credentials(url).partition("#")[0].rstrip("/")


def _identified(requirement: Requirement, found: Mapping[str, _Found], work: Work) -> Requirement:
    if requirement.url is None:
        return requirement
    place = _bare(work.redact(requirement.url))
    if requirement.is_repository:
        place = _unrevised(place.removeprefix("git+"))
    known = found.get(place)
    if known is None:  # its marker does not hold here
        return requirement
    hashes = requirement.hashes
    if requirement.local is None and known.sha256 and not requirement.exact:
        hashes = (f"sha256:{known.sha256}",)
    return replace(requirement, name=known.name, hashes=hashes, commit=known.commit)


def _unrevised(url: str) -> str:
    head, slash, tail = url.rpartition("/")
    return head + slash + tail.partition("@")[0]


def _write(work: Work, path: Path, requirements: Sequence[Requirement]) -> None:
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, "".join(f"{requirement.line()}\n" for requirement in requirements))
