"""Podman's service: started as the right user when it is needed, and again when it has died."""

import asyncio
import os
import secrets
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from image_world import MIB, ImageNode, random_image
from podman_world import PodmanWorld
from processes import wait_until
from registries import Registry
from users import User

from ray_envd.agent.errors import DrainingError, EnvError
from ray_envd.agent.podman.environment import podman_environment
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.podman.service import Service, Services
from ray_envd.cache.layout import Layout
from ray_envd.cache.owner import Owner


@pytest.fixture
async def services(podman_folder: Path) -> AsyncIterator[Services]:
    layout = Layout(podman_folder / f"store-{secrets.token_hex(4)}")
    await asyncio.to_thread(layout.create)
    made = Services(layout, Hosts())
    yield made
    await made.close()


async def of(services: Services, world: PodmanWorld, **more: str) -> Service:
    owner = Owner.current()
    told = {"PATH": os.environ["PATH"], "HOME": str(world.folder), **world.variables, **more}
    return services.of(owner, await asyncio.to_thread(podman_environment, owner, told))


def _sockets(services: Services) -> list[Path]:
    """Blocking."""
    return list(Path("/tmp").glob(f"ray-envd-podman-{services.mark}-*/s"))


async def test_a_service_is_started_when_asked_and_again_when_it_has_died(
    services: Services, world: PodmanWorld
) -> None:
    """One for all who ask at once, behind a folder that is closed to others; nothing is left at the end."""
    service = await of(services, world)
    told = await asyncio.gather(*(service.call(lambda client: client.info()) for _ in range(3)))
    assert {each["store"]["graphRoot"] for each in told} == {f"{world.folder}/graph"}
    (first,) = await asyncio.to_thread(_sockets, services)
    assert stat.S_IMODE((await asyncio.to_thread(first.parent.stat)).st_mode) == 0o700
    await service.close()
    assert await service.call(lambda client: client.images()) == []
    (second,) = await asyncio.to_thread(_sockets, services)
    assert second != first
    await services.close()
    assert await asyncio.to_thread(_sockets, services) == []
    with pytest.raises(DrainingError):
        await service.call(lambda client: client.images())


async def test_what_is_wrong_with_podman_is_told(
    services: Services, world: PodmanWorld, tmp_path: Path
) -> None:
    """None on the PATH; one whose service says why it does not start."""
    (tmp_path / "none").mkdir()
    broken = tmp_path / "broken" / "podman"
    broken.parent.mkdir()
    await asyncio.to_thread(
        broken.write_text,
        '#!/bin/sh\n[ "$1" = system ] && echo "sockets are out of stock" && exit 125\n'
        'exec /usr/bin/podman "$@"\n',
    )
    await asyncio.to_thread(broken.chmod, 0o755)
    service = await of(services, world, PATH=f"{broken.parent}:/usr/bin:/bin")
    with pytest.raises(EnvError, match="start its service") as failed:
        await service.call(lambda client: client.images())
    assert failed.value.output == ("sockets are out of stock",)


@pytest.mark.usefixtures("other_users")
async def test_images_of_an_ordinary_user(podman_folder: Path, registry: Registry) -> None:
    """Pulled into his storage by his own service, sized, guarded, and removed from there with his rights."""
    user = await asyncio.to_thread(User.make, podman_folder)
    world = await asyncio.to_thread(
        lambda: PodmanWorld.make(user.home / "world", [registry.address], small=False, user=user)
    )
    made = random_image(podman_folder / "layers", 1, seed=40)
    name = registry.push(made, "service/rootless")
    node = await ImageNode.make(podman_folder / "node", world)
    try:
        session = await node.session(owner=Owner.of(user.uid, user.gid))
        image = await node.obtain(session, name)
        assert (image.id, image.is_new, image.entry.key.owner) == (made.id, True, user.uid)
        assert abs(node.store.stored_bytes() - MIB) < MIB // 10
        sign = Path(str(image.entry.details["root"]), "overlay-images", made.id, "manifest")
        assert sign.is_relative_to(user.home)
        assert (await asyncio.to_thread(sign.stat)).st_uid == user.uid
        assert list(image.entry.facts.stamps) == [str(sign)]
        await node.collector.collect(0)
        assert await asyncio.to_thread(world.images) == []
    finally:
        await node.close()
        await asyncio.to_thread(world.close)


@pytest.mark.usefixtures("other_users")
async def test_a_service_that_is_there_already_is_used(services: Services, podman_folder: Path) -> None:
    """Systemd's, where it serves the same storage as podman would with the raylet's environment."""
    user = await asyncio.to_thread(User.make, podman_folder)
    owner = Owner.of(user.uid, user.gid)
    told = {name: value for name, value in user.variables.items() if name != "PATH"}
    path = user.runtime / "podman" / "podman.sock"

    async def find(**more: str) -> int:
        """How many services of ours there are after a question."""
        environment = {**told, "PATH": os.environ["PATH"], **more}
        service = services.of(owner, await asyncio.to_thread(podman_environment, owner, environment))
        assert await service.call(lambda client: client.images()) == []
        found = len(await asyncio.to_thread(_sockets, services))
        await service.close()
        return found

    theirs = await asyncio.to_thread(_serve, user, path)
    try:
        assert await find() == 0
        assert await find(CONTAINERS_REGISTRIES_CONF="/dev/null") == 1
    finally:
        await asyncio.to_thread(_end, theirs)
        await services.close()
        await asyncio.to_thread(user.remove)


def _serve(user: User, path: Path) -> "subprocess.Popen[bytes]":
    path.parent.mkdir()
    os.chown(path.parent, user.uid, user.gid)
    served = subprocess.Popen(
        ["podman", "system", "service", "--time=0", f"unix://{path}"],
        env=user.variables,
        cwd=user.home,
        user=user.uid,
        group=user.gid,
        extra_groups=[],
    )
    wait_until(path.exists, 20, "podman's own service")
    return served


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(20)
