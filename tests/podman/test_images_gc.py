"""Images as objects of the store: what they weigh, who goes, what stays, and what a killed daemon left."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from image_world import MIB, ImageNode, Toll, random_image
from podman_world import PodmanWorld
from registries import Registry

from ray_envd.agent.errors import NeverFitsError
from ray_envd.cache.collect import remove
from ray_envd.cache.errors import InUseError
from ray_envd.cache.store import Entry


@pytest.fixture(autouse=True)
def _no_images_at_first(world: PodmanWorld, toll: Toll) -> Iterator[None]:
    """And a slow registry: podman tells no sizes of what comes within a second."""
    toll.rate = 3 * MIB
    yield
    for image in world.images():
        world.podman("rmi", "-f", image, check=False)


def close(one: int, other: float) -> bool:
    """Tars have headers, and an object has a folder."""
    return abs(one - other) < 0.05 * MIB


async def test_what_images_share_counts_once_and_goes_with_the_last(
    node: ImageNode, registry: Registry, podman_folder: Path
) -> None:
    """Two of ours with a base in common; the one that is in use stays whole."""
    layers = podman_folder / "layers"
    base = random_image(layers, 3, seed=20)
    one, two = (base.derive(layers, {"/own": bytes([n]) * MIB}) for n in (1, 2))
    session = await node.session()
    names = [registry.push(image, "kept/app", str(n)) for n, image in enumerate((one, two))]
    await node.acquire(session, names[0])
    second = (await node.obtain(session, names[1])).entry
    assert close(node.store.stored_bytes(), 5 * MIB)
    assert close(second.size.apparent, 4 * MIB)
    assert close(node.store.ledger().exclusive(second.size), MIB)
    planned = await node.collector.collect(0, dry_run=True)
    assert [victim.entry.key for victim in planned.victims] == [second.key]
    assert close(planned.victims[0].frees, MIB)
    done = await node.collector.collect(0)
    assert close(done.freed_bytes, MIB)
    assert close(node.store.stored_bytes(), 4 * MIB)
    assert (await node.has(one.id), await node.has(two.id)) == (True, False)
    assert len(await node.claims()) == 1
    await node.manager.uses.end(session.id)
    await node.collector.collect(0)
    assert close(node.store.stored_bytes(), 0)
    assert await asyncio.to_thread(node.world.images) == []
    assert await node.claims() == []


async def test_images_of_others_weigh_nothing_and_stay(
    node: ImageNode, registry: Registry, podman_folder: Path
) -> None:
    """One that was here before is used and never removed; layers that it has do not count as ours."""
    layers = podman_folder / "layers"
    theirs = random_image(layers, 2, seed=21)
    ours = theirs.derive(layers, {"/own": b"x" * MIB})
    name = registry.push(theirs, "kept/theirs")
    await node.podman("pull", "-q", name)
    session = await node.session()
    image = await node.obtain(session, name)
    assert (image.id, image.is_new, image.entry.size.units) == (theirs.id, False, ())
    mine = (await node.obtain(session, registry.push(ours, "kept/ours"))).entry
    assert close(node.store.stored_bytes(), MIB)
    assert close(node.store.ledger().exclusive(mine.size), MIB)
    await node.podman("rmi", name)
    await node.images.look()
    assert close(node.store.stored_bytes(), 3 * MIB), "now the base is ours alone"
    await node.podman("pull", "-q", name)
    await node.images.look()
    done = await node.collector.collect(0)
    assert close(done.freed_bytes, MIB)
    assert (await node.has(theirs.id), await node.has(ours.id)) == (True, False)
    assert node.objects() == []


async def test_what_others_have_named_or_use_stays_and_is_theirs(
    node: ImageNode, registry: Registry, podman_folder: Path
) -> None:
    """A container made of it, or a name that somebody gave it: podman keeps it, we forget it."""
    layers = podman_folder / "layers"
    used, named = (random_image(layers, 0.1, seed=seed) for seed in (22, 23))
    session = await node.session()
    for image, tag in ((used, "used"), (named, "named")):
        await node.obtain(session, registry.push(image, "kept/stays", tag))
    await node.podman(
        "create", "--network=host", "--name", "kept-stays", f"{registry.address}/kept/stays:used", "x"
    )
    await node.podman("tag", named.id, "localhost/mine:1")
    await node.collector.collect(0)
    assert (node.objects(), await node.claims()) == ([], [])
    assert (await node.has(used.id), await node.has(named.id)) == (True, True)
    again = await node.session("again")
    assert (await node.obtain(again, f"{registry.address}/kept/stays:used")).entry.size.units == ()
    await node.podman("rm", "-f", "kept-stays")


async def test_pins_limits_of_kinds_and_damage(
    tmp_path: Path, world: PodmanWorld, registry: Registry, podman_folder: Path
) -> None:
    """A pinned one stays, a limit of the kind takes the other; what somebody removed is pulled again."""
    made = await ImageNode.make(tmp_path, world, kind_bytes={"image": MIB // 2})
    try:
        first, second = (random_image(podman_folder / "layers", 0.4, seed=seed) for seed in (24, 25))
        session = await made.session()
        names = [registry.push(image, "kept/limited", str(n)) for n, image in enumerate((first, second))]
        pinned = (await made.obtain(session, names[0])).entry
        await asyncio.to_thread(made.store.pin, pinned.key)
        await made.obtain(session, names[1])
        await made.collector.collect()
        assert [entry.key for entry in made.objects()] == [pinned.key]
        assert (await made.has(first.id), await made.has(second.id)) == (True, False)
        await made.podman("rmi", names[0])
        await made.acquire(session, names[0])
        image = made.installer.obtained[-1]
        assert (image.id, image.is_new, image.entry.generation) == (first.id, True, 1)
        with pytest.raises(InUseError):
            await asyncio.to_thread(remove, made.store, made.references, image.entry)
        await made.manager.uses.end(session.id)
        await made.collector.collect(0)
        assert (await asyncio.to_thread(world.images), await made.claims()) == ([], [])
        assert made.store.entries() == []
    finally:
        await made.close()


async def test_what_a_killed_daemon_left_is_found(
    tmp_path: Path, world: PodmanWorld, registry: Registry, podman_folder: Path
) -> None:
    """A pull whose end nobody saw, and an object that was lost; what was there before stays."""
    images = {
        tag: random_image(podman_folder / "layers", 0.1, seed=seed)
        for seed, tag in enumerate(("pulled", "lost", "kept", "before"), 26)
    }
    names = {tag: registry.push(image, "kept/killed", tag) for tag, image in images.items()}
    node = await ImageNode.make(tmp_path, world)
    await node.podman("pull", "-q", names["before"])
    session = await node.session()
    lost, kept = [(await node.obtain(session, names[tag])).entry for tag in ("lost", "kept")]
    await node.close()
    await node.podman("pull", "-q", names["pulled"])
    await asyncio.to_thread(_lose, node, lost, names, images["before"].id)
    node = await ImageNode.make(tmp_path, world)
    try:
        assert len(await node.claims()) == 4
        await node.images.sweep()
        there = {tag: await node.has(image.id) for tag, image in images.items()}
        assert there == {"pulled": False, "lost": False, "kept": True, "before": True}
        assert await node.claims() == [kept.key.digest]
        assert close(node.store.stored_bytes(), 0), "until somebody has looked its layer may be another's"
        await node.images.look()
        assert close(node.store.stored_bytes(), 0.1 * MIB + kept.size.private)
        await node.collector.collect(0)
        assert await asyncio.to_thread(world.images) == [images["before"].id]
    finally:
        await node.close()
        await asyncio.to_thread(world.podman, "rmi", "-f", images["before"].id)


def _lose(node: ImageNode, lost: Entry, names: Mapping[str, str], before: str) -> None:
    """What a kill may leave: notes of two pulls, and no marker."""
    marker = node.store.layout.markers / str(lost.key.owner) / "image" / f"{lost.key.digest}.json"
    marker.unlink()
    for tag in ("pulled", "before"):
        said = {
            "reference": names[tag],
            "before": [before],
            "environment": lost.details["environment"],
        }
        node.store.claims.put(lost.key.owner, f"pull-{tag}", said)


async def test_room_is_made_for_a_pull_or_it_ends(
    tmp_path: Path, world: PodmanWorld, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """What would never fit is given up in the middle and leaves nothing; else unused images go first."""
    node = await ImageNode.make(tmp_path, world, budget=24 * MIB)
    layers, names = podman_folder / "layers", list[str]()
    for size in (10, 6, 7):
        second = random_image(layers, size, seed=30)
        registry.push(second, "kept/room", str(size))
        names.append(f"{toll.address}/kept/room:{size}")
    try:
        session = await node.session()
        with pytest.raises(NeverFitsError, match="the whole budget is"):
            await node.acquire(session, names[0])
        assert (await asyncio.to_thread(world.images), await node.claims()) == ([], [])
        await node.obtain(session, names[1])
        await node.acquire(session, names[2])
        assert await asyncio.to_thread(world.images) == [second.id]
        assert (len(node.objects()), node.workshop.space.budget.reserved) == (1, 0)
    finally:
        await node.manager.uses.end(session.id)
        await node.collector.collect(0)
        await node.close()
