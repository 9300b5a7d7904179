"""The cache of uv from outside: its weight, its packages, what has gone unused for longest."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from package_world import UV, make_wheel

from ray_envd.agent.python.uv_cache import Meter, has, note_used, packages
from ray_envd.cache.sizes import weigh


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty one."""
    return tmp_path / "cache"


def _uv(cache: Path, *words: str | Path) -> None:
    environment = {"UV_CACHE_DIR": str(cache), "PATH": os.environ["PATH"]}
    subprocess.run([UV, *words, "-q"], env=environment, check=True)


def _cached(cache: Path, name: str, version: str = "1.0") -> Path:
    """Installs a package of some 100 kB into a folder, which is returned."""
    make_wheel(cache.parent / "wheels", name, version, body=f"ballast = {'x' * 100_000!r}")
    target = cache.parent / f"{name}-{version}"
    where = ["--no-index", "--find-links", cache.parent / "wheels", "--target", target]
    _uv(cache, "pip", "install", "--link-mode", "hardlink", *where, f"{name}=={version}")
    return target


def test_a_cache_is_weighed_again_and_again(cache: Path) -> None:
    """As du(1) would, also after packages have come and gone."""
    meter = Meter(cache)
    assert meter.measure() == 0
    for name in ("one", "two"):
        _cached(cache, name)
        # Two folders, the cache's own and that of the unpacked wheels, are left out.
        assert weigh(cache).total - meter.measure() <= 8192
    _uv(cache, "cache", "clean", "one")
    assert weigh(cache).total - meter.measure() <= 8192


def test_packages_are_told_by_what_environments_have_of_them(cache: Path) -> None:
    """What a removal frees, and what it leaves to an environment."""
    target = _cached(cache, "mine")
    (mine,) = packages(cache)
    assert mine.linked > 100_000 > mine.bytes
    shutil.rmtree(target)
    (mine,) = packages(cache)
    assert mine.bytes > 100_000 > mine.linked
    before = weigh(cache).total
    _uv(cache, "cache", "clean", "mine")
    assert before - weigh(cache).total == pytest.approx(mine.bytes, abs=8192)


def test_what_was_used_last_stands_last(cache: Path) -> None:
    """When it was added, or noted as used later; never earlier than known."""
    for name in ("one", "two", "three"):
        _cached(cache, name)
    assert [each.name for each in packages(cache)] == ["one", "two", "three"]
    now = packages(cache)[-1].used
    note_used(cache, ["One"], now + 100)
    note_used(cache, ["two"], now - 100)
    assert [each.name for each in packages(cache)] == ["two", "three", "one"]


def test_whether_a_wheel_is_there_to_be_linked(cache: Path) -> None:
    """This version, and no other."""
    assert not has(cache, "mine", "1.0")
    _cached(cache, "mine")
    assert has(cache, "Mine", "1.0")
    assert not has(cache, "mine", "1.0.1")
    assert not has(cache, "mine", "1")
