"""pip's own configuration, read as pip reads it (``pip/_internal/configuration.py``).

Stock runs the real pip, so a node's ``pip.conf`` and ``PIP_*`` variables hold for the pip field.
"""

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.interpreter import Interpreter

_MOST_TEXTS = 32
_NOT_OPTIONS = {"PIP_CONFIG_FILE", "PIP_HELP", "PIP_VERSION"}


def read(interpreter: Interpreter, environment: Mapping[str, str]) -> dict[str, str]:
    """The options that are configured for ``pip install``, by long name without dashes.

    The command's own section comes before ``[global]``, the environment before both; an empty value
    counts as none. Blocking; with the rights of the calling thread.

    Raises:
        InvalidSpecError: a configuration file cannot be parsed.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for path in files(interpreter, environment):
        for section, values in _parse(path).items():
            if section in sections:
                sections[section].update(values)
    variables = {
        _normal(name.removeprefix("PIP_")): value
        for name, value in environment.items()
        if name.startswith("PIP_") and name not in _NOT_OPTIONS
    }
    merged = {**sections["global"], **sections["install"], **variables}
    return {name: value for name, value in merged.items() if value.strip()}


def files(interpreter: Interpreter, environment: Mapping[str, str]) -> Iterator[Path]:
    """The configuration files, the weakest first; whether they are there is not said."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    for folder in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        yield Path(folder) / "pip/pip.conf"
    yield Path("/etc/pip.conf")
    if not (named and Path(named).exists()):
        home = Path(environment.get("HOME", "/"))
        yield home / ".pip/pip.conf"
        yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    # Stock clones a virtual environment, its pip.conf with it.
    if interpreter.is_venv and not interpreter.image:
        yield Path(interpreter.prefix) / "pip.conf"
    if named:
        yield Path(named)


def _parse(path: Path) -> Mapping[str, Mapping[str, str]]:
    try:
        text = path.read_text()
    except OSError:
        return {}
    try:
        return _sections(text)
    except configparser.Error as error:
        raise InvalidSpecError(
            f"pip's configuration {path} cannot be parsed (line {getattr(error, 'lineno', '?')})",
            field="pip",
            remedy="correct that file on the node",
        ) from error


@lru_cache(_MOST_TEXTS)
def _sections(text: str) -> Mapping[str, Mapping[str, str]]:
    """Remembered: files are read each time, but say the same."""
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return {
        section: {_normal(name): value for name, value in parser.items(section)}
        for section in parser.sections()
    }


def _normal(name: str) -> str:
    return re.sub("_", "-", name.lower()).removeprefix("--")
