"""The interpreter that runs Ray, and where its runtime-env agent is: asked of itself; ray is not imported."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The first and the last minor version of Ray whose agent this link is known to stand in for.
_OLDEST, _NEWEST = (2, 49), (2, 60)
#: For people.
KNOWN_VERSIONS = "{}.{} to {}.{}".format(*_OLDEST, *_NEWEST)
_AGENT = Path("_private", "runtime_env", "agent")
MAIN = "main.py"
_SECONDS = 60.0
#: Where ray is, and what this Python names its bytecode after.
_PROBE = """
import importlib.util, json, sys
spec = importlib.util.find_spec("ray")
print(json.dumps([spec.origin if spec and spec.has_location else None, sys.implementation.cache_tag]))
"""


class AttachError(Exception):
    """It cannot be done; ``remedy`` says what can."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


@dataclass(frozen=True, slots=True)
class RaysPython:
    """An interpreter with a Ray.

    Attributes:
        path: the interpreter, as the caller named it.
        tag: what names bytecode of its kind (``sys.implementation.cache_tag``).
        agent_dir: the folder of Ray's runtime-env agent.
        ray_version: Ray's version; "unknown" if it does not say.
    """

    path: Path
    tag: str
    agent_dir: Path
    ray_version: str


def is_known(version: str) -> bool:
    """Whether the link is known to stand in for the agent of this version of Ray."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and _OLDEST <= (int(match[1]), int(match[2])) <= _NEWEST


def find_agent(python: Path) -> RaysPython:
    """Where an interpreter itself would find Ray's agent. Blocking.

    Raises:
        AttachError: no such interpreter, or no Ray in it.
    """
    origin, tag = ask(python, _PROBE)
    if origin is None:
        raise AttachError(
            f"{python} has no Ray", "name the interpreter that runs `ray start`, with --python PATH"
        )
    package = Path(origin).parent
    agent_dir = package / _AGENT
    if not (agent_dir / MAIN).is_file():
        raise AttachError(
            f"Ray in {package} has no {_AGENT / MAIN}",
            f"ray-envd knows Ray {KNOWN_VERSIONS}; install one of them",
        )
    match = re.search(r'^version = "([^"]+)"', (package / "_version.py").read_text(), re.MULTILINE)
    return RaysPython(python, str(tag), agent_dir, match[1] if match else "unknown")


def ask(python: Path, program: str, words: object = None) -> Any:
    """Runs a program by an interpreter: JSON on its stdin, JSON on its stdout. Blocking.

    Raises:
        AttachError: the interpreter cannot be run, or the program fails.
    """
    try:
        asked = subprocess.run(
            # Not -I: Ray may be in the user's own site-packages, and a raylet finds it there.
            [str(python), "-E", "-c", program],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            cwd="/",  # the caller's own folder is not where a raylet looks
            input=json.dumps(words),
            check=True,
        )
        return json.loads(asked.stdout)
    except OSError as error:
        raise AttachError(
            f"{python} cannot be run: {error.strerror}", "name an interpreter, in full"
        ) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:]
        raise AttachError(f"{python} fails: {''.join(last)}", "is it a Python of 3.9 or later?") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise AttachError(
            f"{python} does not answer like a Python", "name an interpreter, in full"
        ) from error
