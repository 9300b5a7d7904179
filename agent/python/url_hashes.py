"""Hashes of what stands at an address now.

``https://host/main.zip`` means another file tomorrow under the same name. Such a requirement gets the hash
of the file, so that two files are two environments, and what is installed is what was resolved.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ray_envd.agent.python import uv
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.requirements import Requirement
from ray_envd.agent.python.shadow import shadow_python
from ray_envd.agent.python.tools import Work, write_private
from ray_envd.cache.owner import acting_as

_PINNED = re.compile(r"^(?:\S+ @ )?(?P<url>\S+://\S+)(?: ;.*)? \\$")
_HASH = re.compile(r"^\s+--hash=(?P<hash>\S+?)(?: \\)?$")


async def with_url_hashes(request: Request, work: Work, shadow: Path, *, fresh: bool) -> Request:
    """The request with a hash for every file on another machine that has none.

    Raises:
        EnvError: a file cannot be had.
    """
    loose = [requirement for requirement in request.requirements if requirement.is_loose_url]
    if not loose:
        return request
    path = work.workdir / "urls.txt"
    await asyncio.to_thread(_write, work, path, loose)
    arguments = ["pip", "compile", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate"]
    arguments += ["--no-config", "--python", str(shadow_python(shadow)), str(path)]
    completed = None
    if not fresh:
        completed = await uv.run(work, [*arguments, "--offline"], request.options.variables)
    if completed is None or completed.returncode:
        completed = await uv.run_checked(
            work,
            [*arguments, *request.options.transport, *(["--refresh"] if fresh else [])],
            request.options.variables,
            doing="fetch a package by its address",
        )
    hashes = _hashes(completed.lines)
    return replace(
        request,
        requirements=tuple(_hashed(requirement, hashes, work) for requirement in request.requirements),
    )


def _hashes(lines: Sequence[str]) -> dict[str, list[str]]:
    """Hashes by (redacted) address."""
    found: dict[str, list[str]] = {}
    url = ""
    for line in lines:
        if match := _PINNED.match(line):
            url = match["url"]
        elif url and (match := _HASH.match(line)):
            found.setdefault(url, []).append(match["hash"])
    return found


def _hashed(requirement: Requirement, hashes: dict[str, list[str]], work: Work) -> Requirement:
    if not requirement.is_loose_url:
        return requirement
    return replace(requirement, hashes=tuple(hashes.get(work.redact(requirement.url or ""), ())))


def _write(work: Work, path: Path, requirements: Sequence[Requirement]) -> None:
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, "".join(f"{requirement.line()}\n" for requirement in requirements))
