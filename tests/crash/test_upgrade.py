"""A store that passes from one version of the daemon to another and back, under live raylets.

The other version is that of an earlier commit, taken from the repository's history. What is defined: markers
can be read both ways, so objects, references, pins and the workers that run outlive both an upgrade and a
downgrade. An earlier daemon knows no damaged objects and no generations: it removes those, and builds anew.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from life import Life
from promises import goes_on, holds
from whole import Manifest, damaged, manifest, markers
from world import World

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[2]
#: The last commit whose store knows neither generations, damage, shared units nor epochs.
EARLIER = "6cc57d6bc695b8d32418c57e73114b5ee2486340"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The earlier version's code, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = folder / "code.tar"
    command = ["git", "-C", ROOT, "archive", "--output", archive, EARLIER, "agent", "cache", "dev"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this copy of the repository has no history: {done.stderr.strip()}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # our own archive, of a moment ago
    code = folder / "dev"
    probe = [sys.executable, "-c", "import ray_envd.cache.store as store; print(store.__file__)"]
    found = subprocess.run(
        probe, env={**os.environ, "PYTHONPATH": str(code)}, check=True, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(code))
    return code


@pytest.fixture
def life(world: World) -> Iterator[Life]:
    """No daemon yet."""
    with world.life() as found:
        yield found


def _content(life: Life) -> dict[str, Manifest]:
    return {key: manifest(folder, life.store) for key, folder in markers(life.store).items()}


def _pass_on(life: Life, code: Path | None, *, killed: bool) -> None:
    """To a daemon of another version: the first is killed, or ends."""
    if killed:
        life.daemon.kill()
    else:
        life.drain()
    life.code = code
    life.start()


def test_to_this_version_and_back(life: Life, earlier: Path) -> None:
    """Objects, references, pins and running workers outlive an upgrade, a downgrade, and an upgrade again."""
    life.code = earlier
    life.begin()
    life.acquire("b", "one")
    objects = _content(life)
    hops = ((None, "two", True), (earlier, "dir", True), (None, "modules", False), (earlier, "two", False))
    for code, new, killed in hops:
        _pass_on(life, code, killed=killed)
        holds(life, objects)
        for env in life.uses:
            life.acquire("a", env)
        life.acquire("b", new)
        life.release("b", new)
        life.acquire("b", new)
        life.attach(f"{new}-{killed}")
        life.acquire(f"{new}-{killed}", new)
        assert life.daemon.stats().builds == 0
        assert _content(life) == objects
    _pass_on(life, None, killed=True)
    goes_on(life)


def test_an_earlier_version_never_hands_out_what_was_damaged(world: World, life: Life, earlier: Path) -> None:
    """It does not know that an object stands elsewhere now: it removes both, and builds anew."""
    life.begin()
    (one,) = life.objects_of("1.0")
    life.daemon.kill()
    next(life.store.glob(f"markers-v1/*/{one}.json")).write_bytes(b"garbage")
    life.start()
    life.acquire("b", "one")
    (module,) = damaged(life.store)[f"{one}.0"].rglob("first.py")
    module.unlink()  # uv's cache has the same file
    module.write_text("damaged")
    _pass_on(life, earlier, killed=False)
    life.acquire("a", "one")
    created = life.model.contexts["a", "one"]
    assert life.raylets["a"].run(created, life.uses["one"].code) == life.uses["one"].prints
    assert damaged(life.store) == {}
    _pass_on(life, None, killed=False)
    goes_on(life)
