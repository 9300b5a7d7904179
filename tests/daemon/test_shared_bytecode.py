"""Environments with the same wheels share what was compiled from them, and damage to it spreads to none."""

import json
from pathlib import Path

import pytest
from daemons import Daemon
from helpers import make_wheel
from raylet import MakeRaylet
from stored_files import damaged, flip, markers, pip, site_of, verify

pytestmark = pytest.mark.slow

WHERE = "import tiny; print(tiny.answer.__code__.co_filename, tiny.__cached__)"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Packages on this machine."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "tiny", "1.0", source="def answer():\n    return 42\n")
    make_wheel(folder, "other", "1.0")
    return folder


def compiled(site: Path) -> Path:
    """What was compiled of the package."""
    (found,) = site.glob("__pycache__/tiny.*.pyc")
    return found


def test_the_second_environment_links_what_the_first_has_compiled(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path
) -> None:
    """Python takes it, writes nothing, and names the environment's own file in tracebacks."""
    raylet = make_raylet(own)
    first = raylet.prepared(pip(wheels, "tiny"))
    verify(own)
    second = raylet.prepared(pip(wheels, "tiny", "other"))
    # What a worker has compiled before it is sealed does not stay beside the first one's.
    here = site_of(raylet, second)
    assert compiled(here).stat().st_nlink == 1
    assert not damaged(verify(own))
    assert compiled(here).samefile(compiled(site_of(raylet, first)))
    before = compiled(here).stat()
    source, cached = raylet.run(second, WHERE).split()
    assert (Path(source), Path(cached)) == (here / "tiny.py", compiled(here))
    assert compiled(here).stat() == before
    assert not list(here.glob("__pycache__/*.0"))


def test_a_source_that_only_looks_the_same_is_compiled_anew(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path, tmp_path: Path
) -> None:
    """Another wheel of the same name, version and times, in which the answer is another one."""
    raylet = make_raylet(own)
    first = raylet.prepared(pip(wheels, "tiny"))
    verify(own)
    theirs = tmp_path / "theirs"
    make_wheel(theirs, "tiny", "1.0", source="def answer():\n    return 43\n")
    make_wheel(theirs, "other", "1.0")
    second = raylet.prepared(pip(theirs, "tiny", "other"))
    assert not damaged(verify(own))
    assert not compiled(site_of(raylet, second)).samefile(compiled(site_of(raylet, first)))
    assert raylet.run(second, "import tiny; print(tiny.answer())") == "43"


def test_damaged_bytecode_is_not_taken_for_whole(own: Daemon, make_raylet: MakeRaylet, wheels: Path) -> None:
    """A bit flips in the first one's: sealing the second finds it, and who has it is built anew."""
    envs = [pip(wheels, "tiny"), pip(wheels, "tiny", "other")]
    raylet = make_raylet(own)
    first = raylet.prepared(envs[0])
    verify(own)
    flip(compiled(site_of(raylet, first)), at=-1)
    raylet.prepared(envs[1])
    # Told to look at the second one only.
    verify(own, next(f"python/{path.stem}" for path in unsealed(own)))
    assert all(each["damaged"] for each in markers(own))
    for env in envs:
        raylet.delete(env)
        fresh = raylet.prepared(env)
        assert raylet.run(fresh, "import tiny; print(tiny.answer())") == "42"


def unsealed(daemon: Daemon) -> list[Path]:
    """The markers of environments that are not complete."""
    found = daemon.store.glob("markers-v1/*/python/*.json")
    return [path for path in found if not json.loads(path.read_text())["sealed"]]
