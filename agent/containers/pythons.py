"""The Pythons of an image: looked for in a container of it, once for each, and the one that Ray needs."""

import asyncio
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent.errors import EnvError, UnsupportedError
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.podman.faults import failure
from ray_envd.agent.podman.host import PodmanHost
from ray_envd.agent.process import Completed
from ray_envd.agent.python.interpreter import PROBE_SCRIPT, Interpreter, read_interpreter

_SCRIPT = Path(__file__).with_name("search_script.py")
_PREFIX = "ray-envd-search:"
#: Under which the search itself is run: those on the image's PATH, then where images put theirs.
_STARTERS = (
    "python3",
    "python",
    "/opt/venv/bin/python",
    "/opt/conda/bin/python",
    "/usr/local/bin/python3",
    "/usr/bin/python3",
    "/home/ray/anaconda3/bin/python",
    "/venv/bin/python",
    "/app/.venv/bin/python",
)
#: What podman and the runtimes say where a command is not in the image.
_NO_COMMAND = re.compile(
    r"executable file .*not found|no such file or directory|stat .*: not found", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Found:
    """A Python of an image.

    Attributes:
        said: of the search, as JSON has it.
        python: None where it does not run, or is older than 3.9.
        worker: path of Ray's ``default_worker.py``; empty where it imports none.
    """

    said: Mapping[str, Any]
    python: Interpreter | None
    worker: str

    def __str__(self) -> str:
        path, facts = self.said["path"], self.said.get("facts")
        if facts is None:
            return f"{path}: {self.said['error']}"
        ray = facts["ray_version"]
        return f"{path}: Python {facts['version']}, {f'Ray {ray}' if ray else 'no Ray'}"


def understood(said: Sequence[Mapping[str, Any]], image: str) -> list[Found]:
    """What a search wrote.

    Raises:
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: it was no search.
    """
    return [Found(each, _interpreter(each, image), str(each.get("worker") or "")) for each in said]


def _interpreter(said: Mapping[str, Any], image: str) -> Interpreter | None:
    if "facts" not in said:
        str(said["error"])  # a search says one or the other
        return None
    try:
        return read_interpreter(str(said["path"]), said["facts"], image=image)
    except UnsupportedError:
        return None


async def search(host: PodmanHost, image: str, spec: ImageSpec, ray_version: str) -> list[Found]:
    """What Pythons an image has, those that were looked at before one with this Ray was found, and that one.

    Args:
        host: podman.
        image: its id.
        spec: a worker path in it says where to look first.
        ray_version: of the raylet; empty where any will do.

    Raises:
        EnvError: no container of it can be started, or it has no Python at all.
    """
    script, probe = await asyncio.to_thread(lambda: (_SCRIPT.read_text(), PROBE_SCRIPT.read_text()))
    first = _beside(spec.worker_path)
    asked = json.dumps({"probe": probe, "first": first, "ray": ray_version})
    for starter in (*first, *_STARTERS):
        name, entry = f"ray-envd-search-{secrets.token_hex(8)}", f"--entrypoint={starter}"
        done = await host.container(name, "--workdir=/", entry, image, "-c", script, asked)
        lines = [line for line in done.lines if line.startswith(_PREFIX)]
        if not done.returncode and lines:
            return understood(json.loads(lines[-1].removeprefix(_PREFIX)), image)
        if not _NO_COMMAND.search("\n".join(done.lines)):
            raise _not_searched(done, starter, spec)
    raise UnsupportedError(
        f"{spec.reference} has no Python",
        field=spec.field,
        remedy=f"install Python and Ray {ray_version} in it, and put python3 on its PATH",
    )


def choose(
    found: Sequence[Found], spec: ImageSpec, *, ray_version: str, python_version: str
) -> tuple[Interpreter, str]:
    """Of what a search found the interpreter that Ray's workers need, and the path of their script.

    Args:
        found: of :func:`search`.
        spec: for messages, and for a worker path that the user gives.
        ray_version: of the raylet; empty where any will do.
        python_version: of the raylet's interpreter.

    Raises:
        UnsupportedError: there is none, and what there is.
    """
    with_ray = [(each.python, each.worker) for each in found if each.python and each.worker]
    if not with_ray:
        raise UnsupportedError(
            f"{spec.reference} has no Python 3.9 or later that imports Ray",
            field=spec.field,
            remedy=f"install Ray {ray_version} in the image, for Python {_minor(python_version)}",
            output=[str(each) for each in found],
        )
    fitting = [pair for pair in with_ray if ray_version in {"", pair[0].ray_version}]
    python, worker = (fitting or with_ray)[0]
    if not fitting:
        raise UnsupportedError(
            f"{spec.reference} has Ray {python.ray_version} ({python.executable}), the cluster has "
            f"Ray {ray_version}, and Ray refuses workers of another version",
            field=spec.field,
            remedy=f"build the image with Ray {ray_version}",
        )
    if _minor(python.version) != _minor(python_version):
        raise UnsupportedError(
            f"{spec.reference} has Python {python.version} ({python.executable}), the cluster has "
            f"Python {python_version}, and Ray refuses workers of another minor version",
            field=spec.field,
            remedy=f"build the image with Python {_minor(python_version)}",
        )
    return python, spec.worker_path or worker


def _beside(worker_path: str) -> list[str]:
    """Where the interpreter is that imports this worker script: ``PREFIX/lib/pythonX.Y/...``."""
    prefix, middle, _ = worker_path.partition("/lib/python")
    return [f"{prefix}/bin/python", f"{prefix}/bin/python3"] if middle else []


def _not_searched(done: Completed, starter: str, spec: ImageSpec) -> EnvError:
    if done.returncode == 0:
        return UnsupportedError(
            f"{starter} of {spec.reference} is no Python",
            field=spec.field,
            remedy="put a Python on the image's PATH",
            output=done.tail(),
        )
    return failure(done, f"look into {spec.reference}", field=spec.field)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
