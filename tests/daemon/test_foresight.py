"""What a new session finds made: layers over what the last sessions of its interpreter used."""

from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from raylet import MakeRaylet, Raylet

from ray_envd.agent.pb import admin_pb2


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two packages."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("tiny", "small"):
        make_wheel(folder, name, "1.0")
    return folder


def pip(wheels: Path, package: str) -> dict[str, Any]:
    """A pip field that knows the local wheels only."""
    return {
        "pip": {"packages": [package], "pip_install_options": ["--no-index", "--find-links", str(wheels)]}
    }


def layers(raylet: Raylet) -> dict[Path, int]:
    """The finished layers in a raylet's folder, by their inodes: one that was made anew has another."""
    folder = raylet.resources / "ray-envd/envs"
    records = folder.glob(".*.ray-envd.json")
    names = [path.name.removeprefix(".").removesuffix(".ray-envd.json") for path in records]
    return {folder / name: (folder / name).stat().st_ino for name in names}


def test_a_layer_is_there_before_anybody_asks(
    own: Daemon, make_raylet: MakeRaylet, interpreter: str, wheels: Path
) -> None:
    """The first request of another raylet on the same Python gets it, whatever else its env names."""
    make_raylet(own, python=interpreter).prepared(pip(wheels, "tiny"))
    builds = own.stats().builds
    raylet = make_raylet(own, python=interpreter)
    made = wait_until(lambda: layers(raylet), 20, "a layer")
    created = raylet.prepared({**pip(wheels, "tiny"), "env_vars": {"A": "1"}})
    (layer,) = made
    assert raylet.run(created, "import os, tiny; print(os.environ['VIRTUAL_ENV'])") == str(layer)
    assert layers(raylet) == made
    assert own.stats().builds == builds


def test_nothing_is_built_ahead(own: Daemon, make_raylet: MakeRaylet, interpreter: str, wheels: Path) -> None:
    """Of what was used, the last first, that which has been removed since is passed over."""
    raylet = make_raylet(own, python=interpreter)
    raylet.prepared(pip(wheels, "small"))
    (kept,) = layers(raylet)
    raylet.prepared(pip(wheels, "tiny"))
    (removed,) = layers(raylet).keys() - {kept}
    raylet.kill()
    wait_until(lambda: own.stats().references == 0, 20, "the end of the session")
    with own.admin() as admin:
        (entry,) = [each for each in admin.List(admin_pb2.ListRequest()).objects if "tiny" in each.summary]
        admin.Remove(admin_pb2.RemoveRequest(id=entry.id))
    raylet, builds = make_raylet(own, python=interpreter), own.stats().builds
    wait_until(lambda: layers(raylet), 20, "a layer")
    assert [path.name for path in layers(raylet)] == [kept.name]
    assert removed.name != kept.name
    assert own.stats().builds == builds


def test_another_interpreter_is_another_matter(
    own: Daemon, make_raylet: MakeRaylet, interpreter: str, wheels: Path
) -> None:
    """What raylets on one Python use is not made for those on another."""
    make_raylet(own, python=interpreter).prepared(pip(wheels, "tiny"))
    other = make_raylet(own)
    same = make_raylet(own, python=interpreter)
    wait_until(lambda: layers(same), 20, "a layer")
    assert not layers(other)
