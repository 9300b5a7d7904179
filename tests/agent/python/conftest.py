"""Fixtures of the Python environments."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_world import UV, Index, Kit, clean_environment, make_wheel, pythons

from ray_envd.agent.python.tools import Toolbox


@pytest.fixture(scope="session")
def base_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with a fake Ray 2.60.0, which needs ``dep`` 1.0."""
    root = tmp_path_factory.mktemp("base")
    wheels = root / "wheels"
    make_wheel(wheels, "ray", "2.60.0", ["dep>=1"])
    make_wheel(wheels, "dep", "1.0")
    subprocess.run([UV, "venv", "-q", "--python", next(iter(pythons().values())), root / "venv"], check=True)
    subprocess.run(
        [UV, "pip", "install", "-q", "--no-index", "--find-links", wheels, "--python", root / "venv", "ray"],
        check=True,
        env={**os.environ, "UV_CACHE_DIR": str(root / "cache")},
    )
    return root / "venv"


@pytest.fixture
def kit(tmp_path: Path, base_venv: Path) -> Kit:
    """Over the fake Ray's environment, with a few packages."""
    home = tmp_path / "home"
    home.mkdir()
    made = Kit(
        tmp_path,
        str(base_venv / "bin/python"),
        clean_environment(home),
        Toolbox.bundled(tmp_path / "uv-cache"),
    )
    make_wheel(made.wheels, "tiny", "1.0", script=True, body="def main(): import sys; print(sys.executable)")
    make_wheel(made.wheels, "tiny", "2.0")
    make_wheel(made.wheels, "dep", "1.0")
    make_wheel(made.wheels, "dep", "2.0")
    make_wheel(made.wheels, "top", "1.0", ["dep", "tiny<2"])
    return made


@pytest.fixture
def index() -> Iterator[Index]:
    """An empty index."""
    made = Index()
    yield made
    made.close()
