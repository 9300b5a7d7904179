"""What workers write reaches neither the store nor another session, nor whoever comes next."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import package_world
import pytest
from daemons import Daemon
from helpers import make_wheel
from package_world import UV
from raylet import Env, MakeRaylet
from sources import make_zip

pytestmark = pytest.mark.slow


FILES = {"mine.py": "where = 'package'\n", "data/file.txt": "content", "data/other.txt": "content"}
#: A worker that does to its folder what workers do.
SPOIL = """
import mine, os
assert mine.where == "package"
open("mine.py", "w").write("where = 'spoilt'")
open("data/file.txt", "a").write("more")
os.remove("data/other.txt")
open("result.txt", "w").write("42")
"""
LOOK = "import mine, os; print(mine.where, sorted(os.listdir('.')), sorted(os.listdir('data')))"
PACKED = "package ['data', 'mine.py'] ['file.txt', 'other.txt']"
VERSIONS = """
import importlib.metadata as m
for name in ("tiny", "added", "top", "below"):
    try:
        print(name, __import__(name).__version__, m.version(name), end=" ")
    except ImportError:
        print(name, "-", end=" ")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a Ray in a virtual environment that has pip."""
    folder = tmp_path_factory.mktemp("with-pip")
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    wheel = make_wheel(folder, "below", "1.0")
    subprocess.run([UV, "pip", "install", "-q", "--python", folder / "venv", "pip", wheel], check=True)
    return os.fspath(folder / "venv/bin/python")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What environments are made of, and what workers install on top."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in (("tiny", "1.0"), ("tiny", "2.0"), ("added", "1.0"), ("below", "2.0")):
        make_wheel(folder, name, version)
    make_wheel(folder, "top", "1.0", requires=("tiny",))
    return folder


def pip_env(wheels: Path, *packages: str) -> dict[str, Any]:
    """A pip field that knows the local wheels only."""
    options = ["--no-index", "--find-links", str(wheels)]
    return {"pip": {"packages": list(packages), "pip_install_options": options}}


def installing(command: str, wheels: Path, *words: str) -> str:
    """Code of a worker that runs pip."""
    argv = [*command.split(), "install", "-q", "--no-index", "--find-links", str(wheels), *words]
    return f"import subprocess; subprocess.run({argv!r}, check=True)"


def objects(node: Daemon) -> dict[str, tuple[Any, ...]]:
    """Everything in the store's objects, but modules that workers compiled."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder in (node.store / "users").glob("*/objects-v1"):
        for path in folder.rglob("*"):
            state = path.lstat()
            is_file = stat.S_ISREG(state.st_mode)
            if "__pycache__" not in path.parts:
                text = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
                found[str(path)] = (stat.S_IFMT(state.st_mode), text, is_file and state.st_mtime_ns)
    return found


@pytest.mark.parametrize("field", ["working_dir", "py_modules"])
def test_a_package_that_a_job_spoils(
    node: Daemon, make_raylet: MakeRaylet, tmp_path: Path, field: str
) -> None:
    """Another session's workers, the store, and the same session's next job do not see any of it."""
    package = make_zip(tmp_path / f"p{os.urandom(6).hex()}.zip", FILES)
    uri = package.as_uri()
    env: Env = {field: uri if field == "working_dir" else [uri]}
    one, other = make_raylet(), make_raylet()
    first, second = one.prepared(env), other.prepared(env)
    inside = "import os, mine; os.chdir(os.path.dirname(mine.__file__));"
    before = objects(node)
    one.run(first, inside + SPOIL)
    assert other.run(second, inside + LOOK, PYTHONDONTWRITEBYTECODE="1") == PACKED
    assert "spoilt" in one.run(one.prepared(env), LOOK if field == "working_dir" else inside + LOOK)
    assert objects(node) == before
    assert one.delete(env)
    assert one.delete(env)
    again = one.prepared(env)
    assert one.run(again, inside + LOOK, PYTHONDONTWRITEBYTECODE="1") == PACKED
    (left,) = (one.resources / f"{field}_files").glob("[!.]*.left-*")
    assert (left / "result.txt").read_text() == "42"
    assert f"{left}" in one.setup_log()


@pytest.mark.parametrize("command", ["python -m pip", "pip", "pip3", f"{UV} pip"])
def test_installing_into_the_environment(
    node: Daemon, make_raylet: MakeRaylet, python: str, wheels: Path, command: str
) -> None:
    """Whatever a worker installs with: it imports it, and nobody else does, now or later."""
    env = pip_env(wheels, "top", "tiny==1.0")
    one, other = make_raylet(python=python), make_raylet(python=python)
    first, second = one.prepared(env), other.prepared(env)
    made = "tiny 1.0 1.0 added - top 1.0 1.0 below 1.0 1.0"
    assert one.run(first, VERSIONS) == other.run(second, VERSIONS) == made
    before = objects(node)
    one.run(first, installing(command, wheels, "added", "tiny==2.0"))
    assert one.run(first, VERSIONS) == "tiny 2.0 2.0 added 1.0 1.0 top 1.0 1.0 below 1.0 1.0"
    assert other.run(second, VERSIONS) == made
    assert objects(node) == before
    assert one.delete(env)
    assert one.run(one.prepared(env), VERSIONS) == made


def test_uninstalling_from_the_environment(
    node: Daemon, make_raylet: MakeRaylet, python: str, wheels: Path
) -> None:
    """What the worker's session installed goes; what the store holds stays."""
    env = pip_env(wheels, "tiny==1.0")
    raylet = make_raylet(python=python)
    created, before = raylet.prepared(env), objects(node)
    raylet.run(created, installing("pip", wheels, "tiny==2.0"))
    uninstall = "import subprocess; subprocess.run(['pip', 'uninstall', '-qy', 'tiny'], check=True)"
    raylet.run(created, uninstall)
    assert raylet.run(created, VERSIONS).startswith("tiny 1.0 1.0")
    raylet.run(created, uninstall)
    assert raylet.run(created, VERSIONS).startswith("tiny 1.0 1.0")
    assert objects(node) == before


def test_the_raylets_own_packages_stay(make_raylet: MakeRaylet, python: str, wheels: Path) -> None:
    """A worker that upgrades a package of Ray's own environment does so for its session only."""
    env = pip_env(wheels, "tiny==1.0")
    raylet = make_raylet(python=python)
    created = raylet.prepared(env)
    raylet.run(created, installing("pip", wheels, "below==2.0"))
    assert raylet.run(created, VERSIONS).endswith("below 2.0 2.0")
    done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("below 1.0 1.0")


def test_all_of_an_environment_is_in_the_layer(make_raylet: MakeRaylet, python: str, tmp_path: Path) -> None:
    """Console scripts run in it, programs and data files are where they are in a virtual environment."""
    package_world.make_wheel(
        tmp_path,
        "scripted",
        "1.0",
        script=True,
        body="import added, sys\ndef main(): print(sys.executable, added.__version__)",
    )
    make_wheel(tmp_path, "added", "1.0")
    with_data(tmp_path)
    raylet = make_raylet(python=python)
    created = raylet.prepared(pip_env(tmp_path, "scripted", "data-files"))
    raylet.run(created, installing("pip", tmp_path, "added"))
    code = """
import os, subprocess, sys, sysconfig
print(subprocess.run(["scripted-tool"], capture_output=True, text=True, check=True).stdout, end="")
print(sys.executable, "1.0")
print(open(os.path.join(sys.prefix, "share/data-files/text")).read())
print(subprocess.run([sysconfig.get_path("scripts") + "/program"], capture_output=True, text=True).stdout)
"""
    script, expected, text, program = raylet.run(created, code).splitlines()
    assert script == expected
    assert (text, program) == ("data", "ran")


def with_data(folder: Path) -> None:
    """A wheel with a data file and a program."""
    info = "data_files-1.0.dist-info"
    files = {
        "data_files-1.0.data/data/share/data-files/text": "data",
        "data_files-1.0.data/scripts/program": "#!/bin/sh\necho ran\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: data-files\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    make_zip(folder / "data_files-1.0-py3-none-any.whl", {**files, f"{info}/RECORD": record})


@pytest.mark.parametrize("command", ["python -X utf8=1", f"{UV} run --no-project --offline python"])
def test_a_command_of_the_users_runs_in_the_layer(
    make_raylet: MakeRaylet, python: str, wheels: Path, command: str
) -> None:
    """py_executable beside pip: what the command finds as its Python is the layer's."""
    raylet = make_raylet(python=python)
    created = raylet.prepared({**pip_env(wheels, "tiny==1.0"), "py_executable": command})
    code = "import os, sys, tiny; print(sys.prefix == os.environ['VIRTUAL_ENV'], tiny.__version__)"
    assert raylet.run(created, code) == "True 1.0"


def test_a_layer_lives_as_long_as_its_users(
    start_daemon: Any, make_raylet: MakeRaylet, python: str, wheels: Path
) -> None:
    """A daemon that comes back gives it to the session's next worker as its workers made it."""
    daemon = start_daemon()
    raylet, env = make_raylet(daemon, python=python), pip_env(wheels, "tiny==1.0")
    created = raylet.prepared(env)
    raylet.run(created, installing("pip", wheels, "added"))
    daemon.stop()
    daemon.start()
    again = raylet.persistent(env)
    assert again.context == created.context
    assert "added 1.0" in raylet.run(again, VERSIONS)
    for _ in range(2):
        assert raylet.delete(env)
    assert "added -" in raylet.run(raylet.prepared(env), VERSIONS)
