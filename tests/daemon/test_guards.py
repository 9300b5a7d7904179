"""What guards a hit: environments whose interpreter or files have gone are not handed out."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from raylet import MakeRaylet, Raylet
from sources import FileServer, make_zip
from stored_files import copy_of_python, markers, pip, site_of, verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package on this machine."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "tiny", "1.0", source="answer = 42\n")
    return folder


def damage_of(daemon: Daemon, kind: str = "python") -> list[str]:
    """Why objects of a kind are not handed out any more."""
    return [each["damaged"] for each in markers(daemon, kind) if each["damaged"]]


def next_env(raylet: Raylet, daemon: Daemon, env: dict[str, Any]) -> Any:
    """The env once the daemon has noticed: what it knew a moment ago it may still give."""

    def given() -> Any:
        created = raylet.prepared(env)
        return created if damage_of(daemon) else None

    return wait_until(given, 20, "the damage to be noticed", every=0.3)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda venv: (venv / "pyvenv.cfg").unlink(), "pyvenv.cfg"),
        (lambda venv: shutil.rmtree(next(venv.glob("lib/python3*"))), "site-packages"),
        (lambda venv: (venv / "bin/python").unlink(), "python"),
        (lambda venv: shutil.rmtree(venv.parent), "its folder is gone"),
    ],
)
def test_an_environment_that_is_damaged(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path, damage: Any, reason: str
) -> None:
    """The next worker of the same session gets one that works, and so does another session's."""
    raylet, env = make_raylet(own), pip(wheels, "tiny")
    site = site_of(raylet, raylet.prepared(env))
    verify(own)
    damage(site.parents[2])
    created = next_env(raylet, own, env)
    assert reason in damage_of(own)[0]
    for each in (raylet, make_raylet(own)):
        created = each.prepared(env)
        assert each.run(created, "import tiny; print(tiny.answer)") == "42"
        assert site_of(each, created) != site


def test_another_session_and_another_daemon_look_as_well(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path
) -> None:
    """What was damaged while no daemon looked is found by the next, before it gives it to anybody."""
    env = pip(wheels, "tiny")
    raylet = make_raylet(own)
    site = site_of(raylet, raylet.prepared(env))
    verify(own)
    own.stop()
    (site.parents[2] / "pyvenv.cfg").write_text("home = /nowhere\n")
    own.start()
    created = raylet.persistent(env)
    assert created.ok, created.error
    assert raylet.run(created, "import tiny; print(tiny.answer)") == "42"
    assert len(damage_of(own)) == 1


@pytest.fixture
def ray_on_its_own(tmp_path: Path) -> tuple[Path, Path]:
    """A Python that can be replaced, and the Python of a Ray in a virtual environment of it."""
    binary = copy_of_python(tmp_path / "base")
    subprocess.run([binary, "-m", "venv", "--without-pip", tmp_path / "ray"], check=True)
    return binary, tmp_path / "ray/bin/python"


def test_an_interpreter_that_was_upgraded(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path, ray_on_its_own: tuple[Path, Path]
) -> None:
    """Its environments are not handed out any more; the next is made for the interpreter as it is now."""
    binary, python = ray_on_its_own
    raylet, env = make_raylet(own, python=str(python)), pip(wheels, "tiny")
    site = site_of(raylet, raylet.prepared(env))
    upgraded = binary.with_name("new")
    shutil.copy(binary, upgraded)
    with upgraded.open("ab") as file:
        file.write(b"upgraded")
    upgraded.replace(binary)
    created = next_env(raylet, own, env)
    assert damage_of(own) == ["venv/bin/python has changed"]
    assert site_of(raylet, created) != site
    assert raylet.run(created, "import tiny; print(tiny.answer)") == "42"


def test_an_interpreter_that_is_gone(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path, ray_on_its_own: tuple[Path, Path]
) -> None:
    """Its environments are refused, with the interpreter's path; once it is back they are made anew."""
    binary, python = ray_on_its_own
    raylet, env = make_raylet(own, python=str(python)), pip(wheels, "tiny")
    raylet.prepared(env)
    binary.rename(binary.with_name("away"))
    error = wait_until(lambda: raylet.create(env).error, 20, "a refusal", every=0.3)
    assert str(python) in error
    assert "cannot be run" in error
    assert "cannot be read" in damage_of(own)[0]
    binary.with_name("away").rename(binary)
    other = make_raylet(own, python=str(python))
    created = other.prepared(env)
    assert other.run(created, "import tiny; print(tiny.answer)") == "42"


def test_a_package_that_was_cut_short(
    own: Daemon, make_raylet: MakeRaylet, web: FileServer, tmp_path: Path
) -> None:
    """Another session's working dir is not unpacked from it: it is fetched again."""
    env = {"working_dir": web.add(make_zip(tmp_path / "package.zip", {"mine.py": "x = 1"}))}
    make_raylet(own).prepared(env)
    (archive,) = own.store.glob("users/*/objects-v1/archive/*/archive")
    os.truncate(archive, 10)

    def fetched_again() -> bool:
        raylet = make_raylet(own)
        created = raylet.create(env)
        return created.ok and raylet.run(created, "import mine; print(mine.x)") == "1"

    wait_until(fetched_again, 20, "the package", every=0.5)
    assert damage_of(own, "archive") == ["archive has changed"]
    assert len(web.asked) == 2
