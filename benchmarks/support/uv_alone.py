"""What uv itself needs for a new environment: the floor for whoever uses it."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processes import NodeError

from ray_envd.agent.python.interpreter import Interpreters
from ray_envd.agent.python.request import read
from ray_envd.agent.python.resolve import flags, header
from ray_envd.agent.python.shadow import build_shadow, shadow_python
from ray_envd.agent.python.spec import parse_pip
from ray_envd.agent.python.tools import Toolbox
from ray_envd.cache.owner import Owner


class UvAlone:
    """Runs of uv, offline, with a cache of its own on the file system of its environments.

    It is given its best: no certificates to read, no configuration of its own, its environments on one disk
    with its cache.
    """

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder, self._python = folder, python
        self._shadow = folder / "shadow"
        self._requirements = folder / "requirements.txt"
        self._flags: list[str] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
        kept.pop("VIRTUAL_ENV", None)
        self._environment = {**kept, "UV_CACHE_DIR": str(folder / "cache"), "NO_COLOR": "1"}
        self._uv = Toolbox.bundled(folder).uv

    def warm(self, field: Mapping[str, Any]) -> None:
        """Fetches what the field names, from where ray-envd would, and makes the shadow of Ray's Python."""
        self._folder.mkdir(exist_ok=True)
        asyncio.run(self._prepare(field))
        self._run("venv", "-q", "--python", str(self._python), str(self._folder / "warm"))
        self._run(*self._install(self._folder / "warm"), offline=False)
        self.round(-1)

    async def _prepare(self, field: Mapping[str, Any]) -> None:
        environment, owner = dict(os.environ), Owner.current()
        interpreter = await Interpreters().probe(str(self._python), owner=owner, environment=environment)
        await build_shadow(interpreter, self._shadow, owner=owner)
        request = await read(parse_pip(field), interpreter, environment=environment, owner=owner)
        lines = [*header(request), *(requirement.line() for requirement in request.requirements)]
        self._requirements.write_text("".join(f"{line}\n" for line in lines))
        self._flags = flags(request)

    def round(self, number: int) -> dict[str, float]:
        """Resolves, makes an environment at a path that uv has never seen, installs; seconds by series.

        ``uv_prefix`` is the installation as ray-envd has it done: beside an interpreter that uv knows.
        ``uv`` is the sum of what uv takes alone, ``uv_used`` of what ray-envd has it do.
        """
        target = self._folder / f"env{number}"
        requirements = ["-r", str(self._requirements)]
        dry = ["pip", "install", "--dry-run", "--python", str(shadow_python(self._shadow))]
        prefix = ["pip", "install", "--python", str(shadow_python(self._shadow)), "--no-deps"]
        took = {
            "uv_resolve": self._run(*dry, *self._flags, *requirements),
            "uv_venv": self._run("venv", "-q", "--python", str(self._python), str(target)),
            "uv_install": self._run(*self._install(target)),
            "uv_prefix": self._run(*prefix, "--prefix", f"{target}-prefix", *self._flags, *requirements),
        }
        shutil.rmtree(target)
        shutil.rmtree(f"{target}-prefix")
        alone = took["uv_resolve"] + took["uv_venv"] + took["uv_install"]
        return {"uv": alone, "uv_used": took["uv_resolve"] + took["uv_prefix"], **took}

    def _install(self, target: Path) -> list[str]:
        command = ["pip", "install", "--python", str(target / "bin" / "python")]
        return [*command, *self._flags, "-r", str(self._requirements)]

    def _run(self, *arguments: str, offline: bool = True) -> float:
        command, environment = [self._uv, *arguments], dict(self._environment)
        if offline:
            command.append("--offline")
            # Read for nothing, which takes uv some milliseconds.
            environment.pop("SSL_CERT_FILE", None)
            environment.pop("SSL_CERT_DIR", None)
        began = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        if done.returncode:
            raise NodeError(f"uv failed:\n{done.stderr}")
        return took
