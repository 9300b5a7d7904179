"""What a loss of power costs, and what it does not."""

import json
from collections.abc import Iterator

import pytest
from helpers import wait_until
from power import PoweredLife
from promises import goes_on, holds
from world import World

pytestmark = pytest.mark.slow


EXT4, XFS = pytest.param(("ext4", False), id="ext4"), pytest.param(("xfs", False), id="xfs")
#: Beside a stranger who syncs all the time.
EXT4_TOO = pytest.param(("ext4", True), id="ext4, with a stranger")
XFS_TOO = pytest.param(("xfs", True), id="xfs, with a stranger")


@pytest.fixture
def life(world: World, loop_device: None, request: pytest.FixtureRequest) -> Iterator[PoweredLife]:
    """A life on a disk of its own that has made and got everything; beside a stranger or not."""
    kind, stranger = request.param
    with world.powered_life(kind, stranger=stranger) as found:
        found.start()
        found.attach("a")
        for env in found.uses:
            found.acquire("a", env)
        yield found


def _epoch(life: PoweredLife) -> dict[str, object]:
    return dict(json.loads((life.store / "epoch.json").read_bytes()))


@pytest.mark.parametrize("life", [EXT4, EXT4_TOO, XFS, XFS_TOO], indirect=True)
def test_what_was_made_a_moment_ago(world: World, life: PoweredLife) -> None:
    """It may be lost, but what is handed out is whole, and all can be had again."""
    life.lose_power()
    holds(life, world.objects)
    goes_on(life)


@pytest.mark.parametrize("life", [EXT4_TOO], indirect=True)
def test_what_the_daemon_has_synced_survives(world: World, life: PoweredLife) -> None:
    """Soon after a build it is on disk, and a power failure during the next build does not cost it."""
    wait_until(lambda: _epoch(life)["settled"], 30, "the sync")
    life.release("a", "two")
    (env,) = life.objects_of("2.0")
    life.remove(env, "two")
    life.acquire("a", "two")
    assert not _epoch(life)["settled"]
    life.lose_power()
    life.attach("b")
    for name in ("dir", "one", "modules"):
        life.acquire("b", name)
    assert life.daemon.stats().builds == 0
    holds(life, world.objects)
    goes_on(life)


@pytest.mark.parametrize("life", [XFS], indirect=True)
def test_what_a_daemon_that_ended_had_made_survives(world: World, life: PoweredLife) -> None:
    """A drained daemon leaves nothing unwritten."""
    life.drain()
    life.lose_power()
    life.attach("b")
    for env, use in life.uses.items():
        life.acquire("b", env)
        assert life.raylets["b"].run(life.model.contexts["b", env], use.code) == use.prints
    assert life.daemon.stats().builds == 0
    holds(life, world.objects)


@pytest.mark.parametrize("life", [EXT4_TOO], indirect=True)
def test_power_that_fails_again_and_again(world: World, life: PoweredLife) -> None:
    """Also a store that was recovered a moment ago stands it."""
    for _ in range(3):
        life.lose_power()
        life.attach("a")
        for env in life.uses:
            life.acquire("a", env)
        holds(life, world.objects)
    goes_on(life)
