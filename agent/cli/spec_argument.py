"""SPEC: a runtime env as people write it, made into what a node is sent.

Between the two stands, in a cluster, Ray's driver: it reads requirement files and uploads local folders.
Here the folders are on the same node, so they are used in place, as ``local://``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ray_envd.agent.cli.common import CliError, Exit

_FORMS = 'give JSON such as \'{"pip": ["six"]}\', the name of a file with it, or - for stdin'


def read_spec(argument: str) -> dict[str, Any]:
    """The runtime env of SPEC; blocking.

    Raises:
        CliError: there is no such file, or it is no JSON object, or it names a file that is not there.
    """
    text, base = _text(argument)
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise _wrong(f"SPEC is not JSON: {error}") from None
    if not isinstance(spec, dict):
        raise _wrong(f"SPEC is a JSON {type(spec).__name__}, not an object")
    return _for_a_node(spec, base)


def _wrong(message: str, remedy: str = _FORMS) -> CliError:
    return CliError(message, remedy, code="invalid_spec", exit_code=Exit.USAGE)


def _text(argument: str) -> tuple[str, Path]:
    if argument.lstrip().startswith(("{", "[")):
        return argument, Path.cwd()
    try:
        if argument == "-":
            return sys.stdin.read(), Path.cwd()
        path = Path(argument)
        return path.read_text(), path.resolve().parent
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _wrong(f"SPEC {argument!r} cannot be read: {reason}") from None


def _for_a_node(spec: dict[str, Any], base: Path) -> dict[str, Any]:
    made = dict(spec)
    for field in ("pip", "uv"):
        if isinstance(made.get(field), str):
            made[field] = {"packages": _requirements(field, base / made[field])}
    if isinstance(made.get("working_dir"), str):
        made["working_dir"] = _uri(made["working_dir"], base)
    if isinstance(made.get("py_modules"), list):
        made["py_modules"] = [
            _uri(each, base) if isinstance(each, str) else each for each in made["py_modules"]
        ]
    return made


def _requirements(field: str, path: Path) -> list[str]:
    """The lines of a requirements file, as Ray's driver reads it."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(
            f"the requirements file {path} of the field {field!r} cannot be read: {error}",
            "correct its name (it is looked for beside SPEC), or list the packages",
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _uri(value: str, base: Path) -> str:
    """A folder or an archive on this machine as a URI; everything else as it is."""
    if "://" in value:
        return value
    path = (base / Path(value).expanduser()).resolve()
    if path.is_dir():
        return f"local://{path}"
    return f"file://{path}" if path.is_file() else value
