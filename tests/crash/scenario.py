"""What a daemon does in these tests before it dies: every operation that changes its store, in one life."""

import subprocess
import sys
from pathlib import Path

from fetch_servers import KeyValueStore
from helpers import make_wheel
from life import Life
from life_model import Use
from package_world import UV
from sources import make_zip


def make_uses(folder: Path, gcs: KeyValueStore) -> dict[str, Use]:
    """The envs of the scenario, and all that they are made from."""
    wheels = folder / "wheels"
    for version in ("1.0", "2.0"):
        make_wheel(wheels, "first", version, requires=("second",))
    make_wheel(wheels, "second", "3.0")
    options = ["--no-index", "--find-links", str(wheels)]
    package = make_zip(folder / "package.zip", {"mine.py": "x = 1\n", "deep/data.txt": "data" * 3000})
    modules = make_zip(folder / "modules.zip", {"module/__init__.py": "y = 2\n"})
    uri = f"gcs://_ray_pkg_{'0123456789abcdef' * 2}.zip"
    gcs.values[uri.encode()] = modules.read_bytes()
    code = "import first, second; print(first.__version__, second.__version__)"
    return {
        "dir": Use(
            {"working_dir": package.as_uri(), "env_vars": {"A": "1"}},
            "import mine, os; print(mine.x, len(open('deep/data.txt').read()), os.environ['A'])",
            "1 12000 1",
        ),
        "one": Use({"uv": {"packages": ["first==1.0"], "uv_pip_install_options": options}}, code, "1.0 3.0"),
        "two": Use({"pip": {"packages": ["first==2.0"], "pip_install_options": options}}, code, "2.0 3.0"),
        "modules": Use({"py_modules": [uri]}, "import module; print(module.y)", "2"),
    }


def make_interpreter(folder: Path) -> str:
    """A Python with nothing in it, as that of the raylets: quick to make an overlay of."""
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    return str(folder / "venv/bin/python")


def scenario(life: Life) -> None:
    """All of it; raises DiedError wherever the daemon dies."""
    life.start()
    life.attach("a")
    life.acquire("a", "dir")
    life.acquire("a", "one")
    life.acquire("a", "one")
    life.attach("b")
    life.acquire("b", "two")
    life.acquire("b", "modules")
    life.release("a", "one")
    (package,) = life.objects_of("gcs://")
    life.pin(package, value=True)
    life.release("b", "two")
    (env,) = life.objects_of("2.0")
    life.remove(env, "two")
    life.release("b", "modules")
    assert env not in life.collect("two")
    life.acquire("b", "two")
    life.pin(package, value=False)
    life.collect("modules", until=package)
    life.lose("b")
    life.collect("two", until=env)
    life.acquire("a", "dir")
    life.drain()
