"""What uv and pip say when they fail, told as one of our typed errors. Their own words are kept."""

import re
from collections.abc import Sequence

from ray_envd.agent.errors import (
    BuildError,
    DiskFullError,
    DownloadError,
    EnvError,
    InterruptedToolError,
    InvalidSpecError,
    NetworkError,
    ResolutionError,
)
from ray_envd.agent.process import Completed

#: Lines of a tool that go into the message: uv explains in a few, a build's traceback takes more.
_TAIL = 40

_ERROR = re.compile(r"\s*error[: ]\s*", re.IGNORECASE)

_KILLED = "it is tried again; if it happens again, see whether the node is short of memory"

_Rule = tuple[re.Pattern[str], type[EnvError], str]


def _rule(pattern: str, error: type[EnvError], remedy: str) -> _Rule:
    return re.compile(pattern, re.IGNORECASE), error, remedy


#: The first match decides. The order is from what is certain to what is general.
_RULES: Sequence[_Rule] = (
    # A child of the tool: the interpreter, a build backend, a compiler. "-9" is as pip puts it.
    _rule(
        r"signal: 9 \(sigkill\)|died with <signals\.sigkill|exit code: -9\b|killed signal terminated program",
        InterruptedToolError,
        _KILLED,
    ),
    _rule(r"no space left on device|disk quota exceeded", DiskFullError, "free disk space on the node"),
    _rule(
        r"hash mismatch|do not match the hashes|hashes are required|must have a hash",
        DownloadError,
        "compare the hashes with those of the index; nothing that differs is installed",
    ),
    _rule(
        r"the build backend returned an error|subprocess-exited-with-error|failed building wheel"
        r"|metadata-generation-failed",
        BuildError,
        "see the package's own output; a release with a wheel for this Python needs no build",
    ),
    _rule(
        r"(401|403) (unauthorized|forbidden)|status client error \(40[13]|authentication credentials",
        DownloadError,
        "check the credentials of the index",
    ),
    _rule(
        r"timed? ?out|connection (refused|reset|aborted|closed)|connect error|connection error"
        r"|dns error|could not resolve host|name or service not known|temporary failure in name"
        r"|network is unreachable|no route to host|failed to connect|max retries exceeded"
        r"|newconnectionerror|status server error|http error 5\d\d|429 too many"
        r"|50[0234] (internal|bad|service|gateway)|error sending request"
        r"|end of file before message|incomplete message|incompleteread",
        NetworkError,
        "it is tried again; check that the node reaches the index",
    ),
    _rule(
        r"couldn't parse|failed to parse|invalid requirement|unexpected argument|no such option"
        r"|invalid value|invalid url|cannot be used with|error parsing included file|usage: ",
        InvalidSpecError,
        "correct the requirement or option that the tool names",
    ),
    _rule(
        r"no solution found|no matching distribution|could not find a version|resolutionimpossible"
        r"|was not found in|conflicting dependencies|unsatisfiable|incompatible with",
        ResolutionError,
        "change the requirements as the resolver says, or add the index that has the package",
    ),
    _rule(
        r"status client error|http error 4\d\d|404 not found|distribution not found|failed to download"
        r"|failed to fetch|invalid zip|is invalid|not a valid|failed to extract",
        DownloadError,
        "check the address and the file",
    ),
    _rule(
        r"does not appear to be a python project|no such file or directory|neither `pyproject",
        InvalidSpecError,
        "name a file or folder that exists on the node",
    ),
    _rule(r"git operation failed|failed to clone", DownloadError, "check the repository and the revision"),
)


def classify(tool: str, lines: Sequence[str], *, field: str, log: str, doing: str) -> EnvError:
    """The error that a failed run amounts to.

    Args:
        tool: its name for the message.
        lines: what it printed, already redacted.
        field: ``pip`` or ``uv``.
        log: path of the full output.
        doing: what it was to do.
    """
    text = "\n".join(lines)
    said = [line for line in lines if line.strip()]
    matching = ((error, remedy) for pattern, error, remedy in _RULES if pattern.search(text))
    error, remedy = next(matching, (BuildError, "see the tool's output"))
    return error(_cause(tool, said, doing), field=field, remedy=remedy, output=_explanation(said), log=log)


def interrupted(
    tool: str, completed: Completed, *, field: str | None, log: str | None, doing: str
) -> EnvError:
    """The error of a tool that a signal ended; what it said before does not matter.

    Args:
        tool: its name for the message.
        completed: how it ended; its lines are redacted.
        field: ``pip`` or ``uv``; None where it is not one field's.
        log: path of the full output, if there is one.
        doing: what it was to do.
    """
    cause = f"{tool} was killed ({completed.killed_by}) before it could {doing}"
    return InterruptedToolError(cause, field=field, remedy=_KILLED, output=completed.tail(), log=log)


def _cause(tool: str, said: Sequence[str], doing: str) -> str:
    first = next((line for line in said if _ERROR.match(line)), None)
    if first is None:
        return f"{tool} could not {doing}"
    return f"{tool} could not {doing}: {_ERROR.sub('', first)}"


def _explanation(said: Sequence[str]) -> list[str]:
    """From the first line that says error, but not more than a screen: the beginning and the end."""
    start = next((i for i, line in enumerate(said) if _ERROR.match(line)), 0)
    told = list(said[start:])
    if len(told) <= _TAIL:
        return told
    return [*told[:5], f"... {len(told) - _TAIL} lines left out ...", *told[5 - _TAIL :]]
