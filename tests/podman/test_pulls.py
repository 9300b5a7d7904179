"""Pulls from a real registry: progress, one for all who wait, retries, deadlines, policies."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fetch_servers import Authority
from helpers import wait_until
from image_world import MIB, ImageNode, Toll, random_image
from podman_world import PodmanWorld
from registries import Registry

from ray_envd.agent.containers.images import Image
from ray_envd.agent.errors import EnvError, NetworkError, SetupTimeoutError
from ray_envd.agent.podman.pull_errors import NoImageError


@pytest.fixture(autouse=True)
def _the_same_toll_for_all(toll: Toll) -> Iterator[None]:
    toll.requests.clear()
    yield
    toll.rate = toll.drop_after = None


async def test_an_image_is_pulled_once_and_told_layer_by_layer(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """Many who ask at once share one pull; they hear of layers and bytes; then no registry is needed."""
    made = random_image(podman_folder / "layers", 5, 4, seed=1, GREETING="hello = world")
    registry.push(made, "pulls/once")
    toll.rate = 2 * MIB  # podman tells once a second
    sessions = [await node.session(), await node.session("other")]
    name = f"{toll.address}/pulls/once:latest"
    await asyncio.gather(*(node.acquire(session, name) for session in sessions for _ in range(3)))
    toll.rate = None
    image = node.installer.obtained[-1]
    assert (image.id, image.digest, image.is_new) == (made.id, made.digest, True)
    assert image.variables["GREETING"] == "hello = world"
    assert toll.count("GET", "/blobs/") == 3  # two layers and the configuration
    log = await asyncio.to_thread(node.log)
    for layer in made.layers:
        assert f"image: pulled layer {layer.digest[7:19]}" in log
    steps = [each for each in node.events if each.total and each.phase == "pulling"]
    assert steps
    assert all(0 < each.done <= each.total <= 10 * MIB for each in steps)
    await asyncio.to_thread(registry.stop)
    try:
        again = await node.session("third")
        await node.acquire(again, name)
    finally:
        await asyncio.to_thread(registry.start)
    assert (node.installer.obtained[-1].id, node.installer.obtained[-1].is_new) == (made.id, False)


async def test_what_images_of_a_repository_share_is_fetched_once(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """Two tags with a base in common, asked for at the same time."""
    base = random_image(podman_folder / "layers", 3, seed=2)
    names = []
    for tag in ("1", "2"):
        image = base.derive(podman_folder / "layers", {"/version": tag.encode()})
        registry.push(image, "pulls/family", tag)
        names.append(f"{toll.address}/pulls/family:{tag}")
    session = await node.session()
    toll.rate = 6 * MIB
    await asyncio.gather(*(node.acquire(session, name) for name in names))
    assert toll.count("GET", base.layers[0].digest) == 1
    assert len({entry.details["image"] for entry in node.objects()}) == 2


async def test_a_dropped_registry_is_tried_again_from_there(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """Layers that had come before the connection broke are not fetched again."""
    made = random_image(podman_folder / "layers", 1, 8, seed=3)
    registry.push(made, "pulls/dropped")
    small, large = made.layers
    toll.rate, toll.drop_after = 8 * MIB, toll.passed + 5 * MIB
    session = await node.session(attempts=3)
    await node.acquire(session, f"{toll.address}/pulls/dropped")
    assert toll.drop_after is None, "the connection never broke"
    assert (toll.count("GET", small.digest), toll.count("GET", large.digest)) == (1, 2)
    assert node.installer.obtained[-1].id == made.id


async def test_each_waiter_has_his_deadline_and_the_last_ends_the_pull(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """One gives up, the pull goes on for the other; when that one has gone it ends and leaves nothing."""
    made = random_image(podman_folder / "layers", 12, seed=4)
    registry.push(made, "pulls/slow")
    name = f"{toll.address}/pulls/slow:latest"
    session, other = await node.session(), await node.session("other")
    toll.rate = MIB / 4
    patient = asyncio.create_task(node.acquire(other, name))
    before = toll.passed
    await asyncio.to_thread(wait_until, lambda: toll.passed > before + MIB // 8, 20, "some of the image")
    with pytest.raises(SetupTimeoutError):
        await node.acquire(session, name, seconds=1)
    assert toll.connections
    assert not patient.done()
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient
    await asyncio.to_thread(wait_until, lambda: not toll.connections, 10, "the end of the pull")
    assert not await node.has(made.id)
    assert await node.claims() == []
    assert (node.objects(), node.workshop.space.budget.reserved) == ([], 0)


async def test_policies_say_when_the_registry_is_asked(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """A tag that has moved is found at once, after its time, or never; a digest never moves."""
    layers = podman_folder / "layers"
    first, second = (random_image(layers, 0.1, seed=seed) for seed in (5, 6))
    registry.push(first, "pulls/moving")
    name = f"{toll.address}/pulls/moving:latest"
    sessions = [await node.session(f"s{number}") for number in range(5)]
    assert (await node.obtain(sessions[0], name, pull_policy="1h")).id == first.id
    registry.push(second, "pulls/moving")
    asked = toll.count("/manifests/")
    for session, policy in zip(sessions, ("missing", "1h"), strict=False):
        assert (await node.obtain(session, name, pull_policy=policy)).id == first.id
    assert toll.count("/manifests/") == asked
    assert (await node.obtain(sessions[2], name, pull_policy="1ms")).id == second.id
    assert (await node.obtain(sessions[3], name)).id == second.id, "the tag means the new one now"
    pinned = f"{toll.address}/pulls/moving@{first.digest}"
    assert (await node.obtain(sessions[3], pinned, pull_policy="always")).id == first.id
    assert (await node.obtain(sessions[4], name, pull_policy="always")).id == second.id
    for each in (first, second):
        assert toll.count("GET", each.layers[0].digest) == 1, "no layer is fetched twice"
    with pytest.raises(NoImageError, match="no such image"):
        await node.obtain(sessions[4], f"{toll.address}/pulls/moving@sha256:{'0' * 64}")
    await node.collector.collect(0)
    for each in (first, second):
        assert not await node.has(each.id), "whatever names and digests led to it"


async def test_a_time_to_live_forgives_a_registry_that_is_away(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """What is here serves on; ``always`` means it, and fails."""
    made = random_image(podman_folder / "layers", 0.1, seed=7)
    registry.push(made, "pulls/away")
    name = f"{registry.address}/pulls/away"
    sessions = [await node.session(f"s{number}") for number in range(2)]
    await node.obtain(sessions[0], name)
    await asyncio.to_thread(registry.stop)
    try:
        forgiven, refused = await asyncio.gather(
            node.obtain(sessions[0], name, pull_policy="1ms"),
            node.obtain(sessions[1], name, pull_policy="always"),
            return_exceptions=True,
        )
    finally:
        await asyncio.to_thread(registry.start)
    assert isinstance(forgiven, Image)
    assert forgiven.id == made.id
    assert isinstance(refused, NetworkError)


async def test_images_of_this_machine_are_never_looked_for_elsewhere(
    node: ImageNode, podman_folder: Path
) -> None:
    """One that was built here is used under its name of now, and is not ours; a missing one is told."""
    archive = podman_folder / "layers" / "built.tar"
    session, later = await node.session(), await node.session("later")
    with pytest.raises(NoImageError, match="is not on this node"):
        await node.obtain(session, "localhost/built:1")
    ids = []
    for version, current in enumerate((session, later)):
        await asyncio.to_thread(archive.write_bytes, bytes(1024 * (10 + version)))
        await node.podman("import", "-q", str(archive), "localhost/built:1")
        image = await node.obtain(current, "localhost/built:1")
        ids.append(image.id)
        assert not image.is_new
        assert image.entry.size.units == ()
    assert ids[0] != ids[1]
    for each in ids:
        await node.podman("rmi", "-f", each)


async def test_failures_are_told_in_plain_words(node: ImageNode, registry: Registry, tmp_path: Path) -> None:
    """No such tag, nobody listening, plain HTTP where TLS is wanted: each has a cause and a remedy."""
    session = await node.session()
    closed = {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "none.conf")}
    await asyncio.to_thread((tmp_path / "none.conf").write_text, "unqualified-search-registries = []\n")
    strict = await node.session("strict", **closed)
    cases = (
        (session, f"{registry.address}/pulls/none:1", "no_image", "no such image"),
        (session, "127.0.0.1:1/pulls/none:1", "download", "cannot be reached"),
        (strict, f"{registry.address}/pulls/once:latest", "registry_trust", "plain HTTP"),
    )
    asked = (node.obtain(asking, name) for asking, name, _, _ in cases)
    failures = await asyncio.gather(*asked, return_exceptions=True)
    for failed, (_, name, code, words) in zip(failures, cases, strict=True):
        assert isinstance(failed, EnvError)
        assert (failed.code, failed.field) == (code, "image")
        assert words in failed.cause
        assert name in failed.cause
        assert failed.remedy
    with pytest.raises(EnvError, match="short name"):
        await node.obtain(session, "ubuntu")


async def test_a_registry_with_a_password(tmp_path: Path, podman_folder: Path) -> None:
    """Credentials come from the file that the raylet's environment names; none of them is told to anybody."""
    guarded = await asyncio.to_thread(Registry(tmp_path / "guarded", password=True).start)
    made = await asyncio.to_thread(random_image, podman_folder / "layers", 0.1, seed=8)
    name = guarded.push(made, "pulls/guarded")
    world = await asyncio.to_thread(
        lambda: PodmanWorld.make(podman_folder / "guarded", [guarded.address], small=False)
    )
    node = await ImageNode.make(tmp_path / "node", world)
    try:
        stranger = await node.session("stranger")
        with pytest.raises(EnvError, match="user and a password") as failed:
            await node.obtain(stranger, name)
        assert failed.value.code == "registry_access"
        auth = {"auths": {guarded.address: {"auth": "c29tZWJvZHk6b3BlbiBzZXNhbWU="}}}
        await asyncio.to_thread((tmp_path / "auth.json").write_text, json.dumps(auth))
        known = await node.session("s", REGISTRY_AUTH_FILE=str(tmp_path / "auth.json"))
        assert (await node.obtain(known, name)).id == made.id
        assert "sesame" not in await asyncio.to_thread(node.log)
    finally:
        await node.close()
        await asyncio.to_thread(world.close)
        await asyncio.to_thread(guarded.stop)


async def test_a_registry_with_a_certificate_of_a_private_authority(
    tmp_path: Path, podman_folder: Path
) -> None:
    """It is refused until the authority stands where podman looks for it; then the image comes."""
    plain = await asyncio.to_thread(Registry(tmp_path / "tls").start)
    made = await asyncio.to_thread(random_image, podman_folder / "layers", 0.1, seed=9)
    name = plain.push(made, "pulls/private")
    await asyncio.to_thread(plain.stop)
    authority = await asyncio.to_thread(Authority.at, tmp_path)
    files = (authority.certificate, authority.certificate)
    guarded = Registry(tmp_path / "tls", certificate=files, port=plain.port)
    world = await asyncio.to_thread(lambda: PodmanWorld.make(podman_folder / "private", small=False))
    node = await ImageNode.make(tmp_path / "node", world)
    await asyncio.to_thread(guarded.start)
    try:
        session = await node.session()
        with pytest.raises(EnvError, match="certificate is not trusted") as failed:
            await node.obtain(session, name)
        assert failed.value.code == "registry_trust"
        trusted = Path(session.environment["HOME"], ".config/containers/certs.d", guarded.address)
        await asyncio.to_thread(trusted.mkdir, parents=True)
        await asyncio.to_thread((trusted / "ca.crt").write_bytes, authority.ca.read_bytes())
        assert (await node.obtain(session, name)).id == made.id
    finally:
        await node.close()
        await asyncio.to_thread(world.close)
        await asyncio.to_thread(guarded.stop)


async def test_a_service_that_dies_in_the_middle_is_started_again(
    node: ImageNode, registry: Registry, toll: Toll, podman_folder: Path
) -> None:
    """The next attempt asks another one, and goes on."""
    made = random_image(podman_folder / "layers", 5, seed=10)
    registry.push(made, "pulls/murder")
    toll.rate, before = 3 * MIB, toll.passed
    session = await node.session(attempts=3)
    pulling = asyncio.create_task(node.acquire(session, f"{toll.address}/pulls/murder"))
    await asyncio.to_thread(wait_until, lambda: toll.passed > before + MIB, 20, "some of the image")
    await asyncio.to_thread(_kill_services, node)
    await pulling
    assert node.installer.obtained[-1].id == made.id
    assert toll.count("GET", made.layers[0].digest) == 2
    staging = node.store.layout.user(session.owner.uid).staging
    assert await asyncio.to_thread(lambda: list(staging.glob("podman-*/*"))) == [], "what had come is gone"


def _kill_services(node: ImageNode) -> None:
    """Those of this node's store: their sockets stand in folders with its mark."""
    mark = hashlib.sha256(str(node.store.layout.root).encode()).hexdigest()[:8]
    wanted = f"/ray-envd-podman-{mark}-".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
