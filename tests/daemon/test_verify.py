"""Damage to what is stored: found when asked, and after workers have left; built anew, its users named."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from processes import marked
from raylet import MakeRaylet, Raylet
from sources import FileServer, left_over, make_zip
from stored_files import damaged, flip, markers, pip, site_of, verify, verify_command, wait_until_sealed

from ray_envd.agent.pb import admin_pb2 as pb

pytestmark = pytest.mark.slow


ALICE = 41001


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Packages on this machine."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "tiny", "1.0", source="answer = 42\n")
    make_wheel(folder, "other", "1.0")
    return folder


def answer(raylet: Raylet, env: dict[str, Any]) -> str:
    """What a worker finds in the package."""
    created = raylet.prepared(env)
    told = raylet.run(created, "import tiny; print(tiny.answer)")
    raylet.delete(env)
    return told


def test_what_is_whole(own: Daemon, make_raylet: MakeRaylet, wheels: Path, tmp_path: Path) -> None:
    """Environments and packages are sealed and found whole, also when they were not sealed yet."""
    raylet = make_raylet(own)
    package = make_zip(tmp_path / "package.zip", {"mine.py": "x = 1"})
    raylet.prepared(pip(wheels, "tiny") | {"working_dir": package.as_uri()})
    for _ in range(2):
        told = verify(own)
        assert sorted(name.partition("/")[0] for name in told) == ["archive", "base", "python"]
        assert not any(each.damage or each.error or each.unlike_record for each in told.values())
    compiled = [path.name for path in own.store.glob("users/*/objects-v1/python/**/__pycache__/tiny.*.pyc")]
    assert len(compiled) == 1


def test_a_flipped_bit(own: Daemon, make_raylet: MakeRaylet, wheels: Path) -> None:
    """It is found; who uses it is named and keeps its files; the next acquire builds it anew, and whole."""
    env = pip(wheels, "tiny", "other")
    first = make_raylet(own)
    created = first.prepared(env)
    assert verify_command(own)[0] == 0
    module = site_of(first, created) / "tiny.py"
    flip(module)
    code, told = verify_command(own)
    assert code == 1
    (found,) = (each for each in told.values() if each["damage"])
    assert [Path(path).name for path in found["files"]] == ["tiny.py"]
    assert found["damage"] == f"{found['files'][0]} has changed"
    (user,) = found["users"]
    assert (user["session_dir"], user["references"]) == (str(first.session), 1)
    assert "tiny" in user["runtime_env"]

    again = first.prepared(env)
    assert site_of(first, again) != module.parent
    assert answer(make_raylet(own), env) == "42"
    # What still runs on the damaged one keeps it.
    assert module.exists()
    code, told = verify_command(own, "--repair")
    assert (code, sum(bool(each["damage"]) for each in told.values())) == (1, 1)
    first.delete(env)
    first.delete(env)
    code, told = verify_command(own, "--repair")
    assert code == 0
    assert not module.exists()
    assert len(markers(own)) == 1
    assert left_over(own.store) == []


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda site: flip(next(site.glob("__pycache__/tiny.*.pyc"))), "has changed"),
        (lambda site: (site / "other.py").unlink(), "is missing"),
        (lambda site: (site / "sitecustomize.py").write_text(""), "was added"),
        (lambda site: os.truncate(site / "tiny-1.0.dist-info/METADATA", 0), "has changed"),
    ],
)
def test_other_damage(own: Daemon, make_raylet: MakeRaylet, wheels: Path, damage: Any, word: str) -> None:
    """Compiled code, missing and added files, metadata: found, removed by the repair, built anew."""
    env = pip(wheels, "tiny", "other")
    raylet = make_raylet(own)
    created = raylet.prepared(env)
    raylet.delete(env)
    verify(own)
    damage(site_of(raylet, created))
    (found,) = damaged(verify(own, repair=True)).values()
    assert word in found.damage
    assert found.HasField("freed_bytes")
    assert markers(own) == []
    assert answer(raylet, env) == "42"


def test_two_environments_with_the_same_file(own: Daemon, make_raylet: MakeRaylet, wheels: Path) -> None:
    """The file is linked, so both are damaged; both are built anew from a package that was fetched again."""
    envs = [pip(wheels, "tiny"), pip(wheels, "tiny", "other")]
    raylet = make_raylet(own)
    sites = [site_of(raylet, raylet.prepared(env)) for env in envs]
    assert (sites[0] / "tiny.py").samefile(sites[1] / "tiny.py")
    for env in envs:
        raylet.delete(env)
    verify(own)
    flip(sites[0] / "tiny.py")
    objects = [f"python/{site.parents[3].name}" for site in sites]
    assert list(verify(own, objects[0][:20])) == [f"{objects[0]}.0"]
    assert all(each["damaged"] for each in markers(own))
    assert [answer(raylet, env) for env in envs] == ["42", "42"]


def test_a_damaged_archive(own: Daemon, make_raylet: MakeRaylet, web: FileServer, tmp_path: Path) -> None:
    """It is fetched again before another session is given what is in it."""
    package = make_zip(tmp_path / "package.zip", {"mine.py": "where = 'here'"})
    env = {"working_dir": web.add(package)}
    make_raylet(own).prepared(env)
    verify(own)
    (archive,) = own.store.glob("users/*/objects-v1/archive/*/archive")
    flip(archive)
    assert [list(each.files) for each in damaged(verify(own)).values()] == [["archive"]]
    raylet = make_raylet(own)
    created = raylet.prepared(env)
    assert raylet.run(created, "import mine; print(mine.where)") == "here"
    assert len(web.asked) == 2


def test_a_wheel_whose_record_is_wrong(own: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """There are such wheels; they work, so that is told and no more."""
    wheel = make_wheel(tmp_path / "right", "tiny", "1.0", source="answer = 42\n")
    wrong = tmp_path / "wrong" / wheel.name
    wrong.parent.mkdir()
    with zipfile.ZipFile(wheel) as right, zipfile.ZipFile(wrong, "w") as archive:
        for name in right.namelist():
            archive.writestr(name, right.read(name).replace(b"answer = 42", b"answer = 43"))
    raylet = make_raylet(own)
    env = pip(wrong.parent, "tiny")
    assert answer(raylet, env) == "43"
    for _ in range(2):
        told = verify(own)
        assert not damaged(told)
        (unlike,) = (each.unlike_record for each in told.values() if each.unlike_record)
        assert [Path(path).name for path in unlike] == ["tiny.py"]


def test_a_worker_that_writes_into_its_environment(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path
) -> None:
    """Once it has gone the damage is found without anybody asking, and the next one gets what is whole."""
    env = pip(wheels, "tiny")
    raylet = make_raylet(own)
    created = raylet.prepared(env)
    verify(own)
    module = site_of(raylet, created) / "tiny.py"
    module.chmod(0o644)
    module.write_text("answer = 'mine'\n")
    raylet.delete(env)
    wait_until(lambda: any(each["damaged"] for each in markers(own)), 30, "the damage to be found")
    assert answer(raylet, env) == "42"


def test_compiled_modules_of_workers_are_cleared_away(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path
) -> None:
    """Python at another level of optimisation leaves files of its own: no damage, but not ours to keep."""
    env = pip(wheels, "tiny")
    raylet = make_raylet(own)
    created = raylet.prepared(env)
    verify(own)
    cache = site_of(raylet, created) / "__pycache__"
    mode = cache.stat().st_mode
    cache.chmod(0o755)
    stray = cache / "tiny.cpython-311.opt-2.pyc"
    stray.write_bytes(b"whatever")
    cache.chmod(mode)
    raylet.delete(env)
    wait_until(lambda: not stray.exists(), 30, "the stray file to go")
    assert not any(each["damaged"] for each in markers(own))
    assert site_of(raylet, raylet.prepared(env)) == site_of(raylet, created)


def test_a_daemon_that_is_killed_leaves_the_sealing_to_the_next(
    own: Daemon, make_raylet: MakeRaylet, wheels: Path
) -> None:
    """What was not sealed is sealed then, and works the same."""
    raylet = make_raylet(own)
    created = raylet.prepared(pip(wheels, "tiny"))
    own.kill()
    assert not any(each["sealed"] for each in markers(own))
    own.start()
    wait_until_sealed(own)
    assert not damaged(verify(own))
    assert raylet.run(created, "import tiny; print(tiny.answer)") == "42"


@pytest.mark.usefixtures("other_users")
def test_another_users_environment(start_daemon: Any, make_raylet: MakeRaylet, place: Path) -> None:
    """It is sealed, read and built anew as that user, whose workers cannot write into it."""
    make_wheel(place / "wheels", "tiny", "1.0", source="answer = 42\n")
    daemon: Daemon = start_daemon(folder=place)
    raylet, env = make_raylet(daemon, uid=ALICE, python="/usr/bin/python3"), pip(place / "wheels", "tiny")
    created = raylet.prepared(env)
    assert not any(each.error or each.damage for each in verify(daemon).values())
    site = site_of(raylet, created)
    found = [site.parents[2], *site.parents[2].rglob("*")]
    assert {path.lstat().st_uid for path in found} == {ALICE}
    assert not any(path.stat().st_mode & 0o222 for path in found[1:] if not path.is_symlink())
    code = f"""
import pathlib
for path in map(pathlib.Path, {[str(path) for path in found if not path.is_symlink()]!r}):
    try:
        (path / "new").touch() if path.is_dir() else path.open("a")
        print("written", path)
    except PermissionError:
        pass
"""
    assert raylet.run(created, code) == ""
    flip(site / "tiny.py")
    assert len(damaged(verify(daemon))) == 1
    assert answer(raylet, env) == "42"


def test_sealing_gives_way_to_a_removal(own: Daemon, make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """An object that is just being looked after can be removed; nothing of it is left behind."""
    functions = "".join(f"def f{number}(a, b):\n    return [a, b]\n" for number in range(30_000))
    make_wheel(tmp_path / "wheels", "tiny", "1.0", source=functions)
    raylet, env = make_raylet(own), pip(tmp_path / "wheels", "tiny")
    raylet.prepared(env)
    raylet.delete(env)
    (folder,) = own.store.glob("users/*/objects-v1/python/*")
    wait_until(lambda: marked(str(folder)), 60, "its modules to be compiled")
    with own.admin() as stub:
        assert stub.Remove(pb.RemoveRequest(id=folder.name), timeout=30).freed_bytes > 0
    assert not marked(str(folder))
    assert left_over(own.store) == []
    assert list(own.store.glob("manifests-v1/*/python/*")) == []
