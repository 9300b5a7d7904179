"""An installation of ray-envd from its wheel, as its users have it."""

import os
import subprocess
import sys
from pathlib import Path

from rays import ROOT

from ray_envd.agent.python.tools import our_uv


def install(target: Path, *, bytecode: bool) -> Path:
    """Builds the wheel of this checkout, installs it with what requirements.lock names, returns its Python.

    Args:
        target: a folder that is not there yet, on the file system of uv's cache.
        bytecode: compile all modules, as pip does and ``uv pip install --compile-bytecode``.

    Raises:
        subprocess.CalledProcessError: uv failed.
    """
    wheels, python = target / "wheels", target / "bin" / "python"
    _uv("venv", "-q", "--python", sys.executable, target)
    _uv("build", "-q", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", wheels, ROOT)
    compiled = ["--compile-bytecode"] if bytecode else []
    lock = ROOT / "requirements.lock"
    _uv("pip", "sync", "-q", "--python", python, "--require-hashes", *compiled, lock)
    _uv("pip", "install", "-q", "--python", python, "--no-deps", *compiled, *wheels.glob("*.whl"))
    return python


def _uv(*arguments: str | Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run([our_uv(), *arguments], env=environment, check=True)
