"""Running uv: its environment, its progress, its failures."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence

from ray_envd.agent import tool_logs
from ray_envd.agent.process import Completed
from ray_envd.agent.python.tool_errors import classify, interrupted
from ray_envd.agent.python.tools import Work

_CERTIFICATES = ("UV_SYSTEM_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DOWNLOADING = re.compile(r"^\s*Downloading (?P<what>\S+)(?: \((?P<number>[\d.]+)(?P<unit>[KMG]?i?B)\))?")
_DOWNLOADED = re.compile(r"^\s*Downloaded (?P<what>\S+)")
_STEPS = (
    (re.compile(r"^\s*Building (\S.*)"), "building"),
    (re.compile(r"^\s*Built (\S.*)"), "built"),
    (re.compile(r"^\s*Updating (\S.*)"), "downloading"),
    (re.compile(r"^Prepared (\d+ packages?)"), "prepared"),
)
_CHANGE = re.compile(r"^ \+ (?P<name>[A-Za-z0-9._-]+)(?:==(?P<version>\S+)| @ (?P<url>\S.*))")


def environment(work: Work, variables: Mapping[str, str], *, offline: bool = False) -> dict[str, str]:
    """The environment of uv: of uv's own variables only those that were chosen for this run."""
    kept = {name: value for name, value in work.environment.items() if not name.startswith("UV_")}
    kept.pop("VIRTUAL_ENV", None)
    kept.update(variables)
    if offline:
        # Reading certificates takes uv 7 ms. A build that needs them itself fails and is done again online.
        for name in _CERTIFICATES:
            kept.pop(name, None)
    kept.update(UV_CACHE_DIR=str(work.tools.cache_dir), UV_PYTHON_DOWNLOADS="never", NO_COLOR="1")
    if work.tools.link_mode is not None:
        kept["UV_LINK_MODE"] = work.tools.link_mode
    return kept


async def run(work: Work, arguments: Sequence[str], variables: Mapping[str, str]) -> Completed:
    """Runs uv and reports what it downloads and builds; every line comes back redacted.

    Args:
        work: for whom and where.
        arguments: without the program; no secret among them.
        variables: for its environment, over that of ``work``.

    Raises:
        ToolMissingError: the binary is not there.
    """
    completed = await work.run(
        [work.tools.program, *arguments],
        env=environment(work, variables, offline="--offline" in arguments),
        cwd=work.workdir,
        owner=work.owner,
        on_line=_listener(work),
    )
    return Completed(completed.returncode, tuple(map(work.redact, completed.lines)))


async def run_checked(
    work: Work, arguments: Sequence[str], variables: Mapping[str, str], *, doing: str
) -> Completed:
    """:func:`run`, with a failure raised.

    Raises:
        EnvError: classified by uv's words.
    """
    return await require(work, arguments, await run(work, arguments, variables), doing=doing)


async def require(work: Work, arguments: Sequence[str], completed: Completed, *, doing: str) -> Completed:
    """The same run, if it went well.

    Raises:
        EnvError: classified by uv's words.
    """
    if completed.returncode:
        raise await failure(work, "uv", [work.tools.program, *arguments], completed, doing=doing)
    return completed


async def failure(
    work: Work, tool: str, argv: Sequence[str], completed: Completed, *, doing: str
) -> Exception:
    """The error for a run that failed; writes the full output to the logs."""
    path = work.logs / f"{work.field}-{tool}-{work.workdir.name}.log"
    log = await asyncio.to_thread(tool_logs.save_log, path, list(argv), completed, work.owner)
    if completed.killed_by:
        return interrupted(tool, completed, field=work.field, log=log, doing=doing)
    return classify(tool, completed.lines, field=work.field, log=log, doing=doing)


def changes(lines: Sequence[str]) -> list[tuple[str, str | None, str | None]]:
    """Name, version and URL of each package that a dry run would install."""
    return [(m["name"], m["version"], m["url"]) for line in lines if (m := _CHANGE.match(line))]


def _listener(work: Work) -> Callable[[str], None]:
    """Turns lines of uv into progress; runs in the tool's thread."""
    loop = asyncio.get_running_loop()
    sizes: dict[str, int] = {}

    def tell(phase: str, detail: str, done: int = 0, total: int = 0) -> None:
        loop.call_soon_threadsafe(lambda: work.report(phase, work.redact(detail), done=done, total=total))

    def listen(line: str) -> None:
        if match := _DOWNLOADING.match(line):
            size = int(float(match["number"]) * _SIZES.get(match["unit"], 1)) if match["number"] else 0
            sizes[match["what"]] = size
            tell("downloading", match["what"], total=size)
        elif match := _DOWNLOADED.match(line):
            size = sizes.get(match["what"], 0)
            tell("downloaded", match["what"], done=size, total=size)
        else:
            for pattern, phase in _STEPS:
                if match := pattern.match(line):
                    tell(phase, match[1])

    return listen
