"""What uv and pip say, told as typed errors. The lines are theirs, as they were seen."""

import pytest

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
from ray_envd.agent.python.tool_errors import classify

SAID: dict[str, tuple[type[EnvError], list[str]]] = {
    "uv no solution": (
        ResolutionError,
        ["error: No solution found when resolving dependencies", "  cause: there is no version of six==99"],
    ),
    "uv refused": (
        NetworkError,
        [
            "error: Request failed after 3 retries in 8.7s",
            "  cause: Failed to fetch: http://127.0.0.1:9/",
            "  cause: tcp connect error",
            "  cause: Connection refused (os error 111)",
        ],
    ),
    "uv 503": (
        NetworkError,
        [
            "error: Failed to fetch: `https://h/simple/a/`",
            "  cause: HTTP status server error (503 Service Unavailable) for url (https://h/simple/a/)",
        ],
    ),
    "uv 404 of a file": (
        DownloadError,
        ["error: Failed to download `a @ https://h/a`", "  cause: HTTP status client error (404 Not Found)"],
    ),
    "uv parse": (InvalidSpecError, ["error: Couldn't parse requirement in `r.txt` at position 0"]),
    "uv argument": (InvalidSpecError, ["error: unexpected argument '--nope' found"]),
    "uv hash": (DownloadError, ["error: Failed to download `a==1`", "  cause: Hash mismatch for `a==1`"]),
    "uv build": (
        BuildError,
        [
            "error: Failed to build `broken==1.0`",
            "  cause: The build backend returned an error",
            "  cause: ConnectionError: connection refused",
        ],
    ),
    "uv build killed": (
        InterruptedToolError,
        [
            "error: Failed to build `killed==1.0`",
            "  cause: The build backend returned an error",
            "  cause: Call to `backend.build_wheel` failed (signal: 9 (SIGKILL))",
        ],
    ),
    "a build's child killed": (
        InterruptedToolError,
        [
            "error: Failed to build `killed==1.0`",
            "  cause: Call to `backend.build_wheel` failed (exit status: 1)",
            "subprocess.CalledProcessError: Command '['cc']' died with <Signals.SIGKILL: 9>.",
        ],
    ),
    "uv's interpreter killed": (
        InterruptedToolError,
        ["error: Querying Python at `v/bin/python` failed with exit status signal: 9 (SIGKILL)"],
    ),
    "uv disk": (
        DiskFullError,
        ["error: failed to write", "  cause: No space left on device (os error 28)"],
    ),
    "uv git": (
        NetworkError,
        [
            "error: Git operation failed",
            "  fatal: unable to access 'https://h/x/': Could not resolve host: h",
        ],
    ),
    "pip not found": (
        ResolutionError,
        ["ERROR: Could not find a version that satisfies a==99", "ERROR: No matching distribution found"],
    ),
    "pip network": (
        NetworkError,
        [
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'",
            "ERROR: No matching distribution found for a",
        ],
    ),
    "pip conflict": (ResolutionError, ["ERROR: ResolutionImpossible"]),
    "pip option": (InvalidSpecError, ["Usage:", "  pip install [options]", "", "no such option: --nonsense"]),
    "pip build": (
        BuildError,
        ["error: subprocess-exited-with-error", "python setup.py egg_info did not run"],
    ),
    "pip build killed": (
        InterruptedToolError,
        ["error: subprocess-exited-with-error", "│ exit code: -9"],
    ),
    "unknown": (BuildError, ["something nobody has seen"]),
}


@pytest.mark.parametrize(("expected", "said"), SAID.values(), ids=SAID.keys())
def test_every_failure_has_its_class(expected: type[EnvError], said: list[str]) -> None:
    """The class decides whether it is tried again; words and log are kept."""
    error = classify("tool", said, field="pip", log="/logs/x", doing="work")
    assert type(error) is expected
    assert error.field == "pip"
    assert error.log == "/logs/x"
    assert error.remedy
    assert error.output


def test_a_long_explanation_keeps_its_beginning_and_its_end() -> None:
    """The error's own line and a build's last words are both within a screen."""
    lines = ["Resolved", "error: Failed to build `a`", *(f"line {n}" for n in range(500)), "KeyError: 'last'"]
    output = classify("uv", lines, field="uv", log="/l", doing="work").output
    assert output[0] == "error: Failed to build `a`"
    assert output[-1] == "KeyError: 'last'"
    assert len(output) < 50
