"""The real pip, for what uv cannot do: ``pip_version``, and options that only pip has.

It runs inside the overlay, where it sees the interpreter's packages and leaves what satisfies. It
resolves while it installs; the key is that of the request.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ray_envd.agent.process import Completed
from ray_envd.agent.python import overlay, uv
from ray_envd.agent.python.pip_options import SOURCES, words_for_pip
from ray_envd.agent.python.request import Request
from ray_envd.agent.python.shadow import shadow_python
from ray_envd.agent.python.tools import Work, write_private
from ray_envd.cache.owner import acting_as

#: Stock's, where the user gives none.
_DEFAULTS = ("--disable-pip-version-check", "--no-cache-dir")


_STEPS = (
    (re.compile(r"^\s*Collecting (\S+)"), "resolving"),
    (re.compile(r"^\s*Downloading (\S.*)"), "downloading"),
    (re.compile(r"^\s*Building (?:wheel|editable) for (\S+)"), "building"),
    (re.compile(r"^\s*Installing collected packages: (.*)"), "installing"),
)


async def install(request: Request, work: Work, python: Path, *, shadow: Path, target: Path) -> None:
    """Runs ``pip install`` in an overlay.

    Raises:
        EnvError: pip of that version cannot be had, or pip failed.
    """
    await _provide(request, work, shadow, target)
    files = await asyncio.to_thread(_write, request, work, target)
    options = request.pip_words or _DEFAULTS
    argv = [str(python), "-m", "pip", "install", *files, *words_for_pip(options)]
    work.report("installing", "with pip")
    completed = await work.run(
        argv,
        env={**work.environment, **_variables(request), "VIRTUAL_ENV": str(target)},
        cwd=work.workdir,
        owner=work.owner,
        on_line=_listener(work),
    )
    completed = Completed(completed.returncode, tuple(map(work.redact, completed.lines)))
    if completed.returncode:
        raise await uv.failure(work, "pip", argv, completed, doing="install the packages")


async def _provide(request: Request, work: Work, shadow: Path, target: Path) -> None:
    """Puts pip into the overlay, unless any version will do and the interpreter has one."""
    if request.tool_version is None and "pip" in work.interpreter.installed:
        return
    wanted = f"pip{request.tool_version or ''}"
    work.report("installing", wanted)
    path = work.workdir / "pip.txt"
    lines = [*request.options.sources.lines(), wanted]
    await asyncio.to_thread(_write_as_owner, work, path, lines)
    arguments = ["pip", "install", "--no-config", "--no-deps", "--python", str(shadow_python(shadow))]
    arguments += ["--prefix", str(target), *request.options.transport, "-r", str(path)]
    variables = request.options.variables
    completed = await overlay.install(work, arguments, variables, target=target)
    await uv.require(work, arguments, completed, doing=f"install {wanted}")


def _write(request: Request, work: Work, target: Path) -> list[str]:
    """The files that pip reads; returns the arguments that name them."""
    lines = [" ".join((o.name, o.value or "")) for o in request.file_options if o.name not in SOURCES]
    lines += [requirement.line() for requirement in request.requirements]
    lines += [f"{option.name} {option.value}" for option in request.remote_files]
    path, constraints = work.workdir / "requirements.txt", work.workdir / "constraints.txt"
    _write_as_owner(work, path, lines)
    arguments = ["-r", str(path)]
    if request.constraints:
        _write_as_owner(work, constraints, [requirement.line() for requirement in request.constraints])
        arguments += ["-c", str(constraints)]
    if work.interpreter.is_venv and not work.interpreter.image:
        _copy_configuration(work, target)
    return arguments


def _copy_configuration(work: Work, target: Path) -> None:
    """Stock clones a virtual environment with its pip.conf."""
    with acting_as(work.owner):
        try:
            text = (Path(work.interpreter.prefix) / "pip.conf").read_text()
        except OSError:
            return
        write_private(target / "pip.conf", text)


def _write_as_owner(work: Work, path: Path, lines: Sequence[str]) -> None:
    with acting_as(work.owner):
        work.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, "".join(f"{line}\n" for line in lines))


def _variables(request: Request) -> dict[str, str]:
    """Where packages come from: addresses may hold credentials, so they are no arguments."""
    sources = request.options.sources
    variables = {
        "PIP_INDEX_URL": sources.index_url or "",
        "PIP_EXTRA_INDEX_URL": " ".join(sources.extra_index_urls),
        "PIP_FIND_LINKS": " ".join(sources.find_links),
        "PIP_NO_INDEX": "1" if sources.no_index else "",
        "PIP_PROXY": request.options.variables.get("ALL_PROXY", ""),
    }
    return {name: value for name, value in variables.items() if value}


def _listener(work: Work) -> Callable[[str], None]:
    loop = asyncio.get_running_loop()

    def listen(line: str) -> None:
        for pattern, phase in _STEPS:
            if match := pattern.match(line):
                loop.call_soon_threadsafe(work.report, phase, work.redact(match[1]))
                return

    return listen
