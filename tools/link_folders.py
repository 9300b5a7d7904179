"""A folder with a link in it, as attach leaves it, for links that are run without a Ray."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_envd.agent.link.script import SETTINGS_NAME
from ray_envd.agent.link_files import Bytecode, LinkFiles

_LINK = LinkFiles.own()


def put_link(folder: Path, settings: Mapping[str, Any], python: Path) -> None:
    """Writes script, modules and settings, and the modules' bytecode for an interpreter.

    Raises:
        AttachError: the interpreter cannot compile them.
    """
    bytecode = _compiled(python)
    package = folder / _LINK.package
    (package / "__pycache__").mkdir(parents=True, exist_ok=True)
    for name, content in {**_LINK.modules, **bytecode.files}.items():
        (package / name).write_bytes(content)
    (folder / "main.py").write_bytes(_LINK.main)
    put_settings(folder, settings)


def put_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Only the settings, anew."""
    (folder / SETTINGS_NAME).write_text(json.dumps(settings))


@functools.cache
def _compiled(python: Path) -> Bytecode:
    return _LINK.compiled(python)
