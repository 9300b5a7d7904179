"""Images in a real daemon: killed in the middle of a pull, and what the command line's calls say of them."""

import os
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from daemons import Daemon
from image_world import MIB, Toll, random_image
from podman_world import PodmanWorld
from processes import wait_until
from registries import Registry

from ray_envd.agent.client import Client, DaemonUnavailableError, EnvFailedError, Object, RemoteError
from ray_envd.cache.sizes import weigh


def _fail(daemon: Daemon, world: PodmanWorld, image: str) -> EnvFailedError | None:
    """Asks for an image without a Python: it is pulled, and then of no use."""
    try:
        with Client(daemon.socket) as client:
            list(client.create({"image": image}, environment=world.variables))
    except EnvFailedError as error:
        return error
    except (DaemonUnavailableError, RemoteError):  # the daemon was killed
        return None
    raise AssertionError("there is no Python in it")


def _images(client: Client) -> list[Object]:
    return [each for each in client.list().objects if each.kind == "image"]


def _notes(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in daemon.store.glob("claims-v1/*/*"))


def test_a_kill_in_the_middle_of_a_pull_leaves_nothing(
    start_daemon: Callable[..., Daemon],
    world: PodmanWorld,
    registry: Registry,
    toll: Toll,
    podman_folder: Path,
) -> None:
    """The pull ends at the next daemon's start at the latest; that one pulls again and knows of it all."""
    made = random_image(podman_folder / "layers", 6, seed=60)
    registry.push(made, "daemon/killed")
    name = f"{toll.address}/daemon/killed:latest"
    daemon = start_daemon()
    toll.rate, before = MIB, toll.passed
    asking = threading.Thread(target=_fail, args=(daemon, world, name))
    asking.start()
    wait_until(lambda: toll.passed > before + MIB, 20, "some of the image")
    daemon.kill()
    asking.join(20)
    assert [note[:5] for note in _notes(daemon)] == ["pull-"]
    staging = daemon.store / "users" / str(os.geteuid()) / "staging"
    daemon.start()
    wait_until(lambda: not _notes(daemon), 20, "the end of the pull's note")
    wait_until(lambda: not toll.connections, 10, "the end of the pull")
    assert world.images() == []
    wait_until(lambda: not list(staging.glob("podman-*/storage*")), 10, "the end of what had come")
    toll.rate = None
    failed = _fail(daemon, world, name)
    assert failed is not None
    assert "Python" in str(failed)
    _look_after(daemon, world, made.id)


def _image_bytes(daemon: Daemon) -> float:
    with urllib.request.urlopen(f"{daemon.http}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("ray_envd_image_bytes "))


def _look_after(daemon: Daemon, world: PodmanWorld, image: str) -> None:
    """List, stats, pin, collect, verify and remove: an image is an object as others are."""
    with Client(daemon.socket) as client:
        (found,) = _images(client)
        assert found.id.startswith(f"image/{image}")
        assert abs(found.bytes - 6 * MIB) < MIB // 10
        assert abs(found.exclusive_bytes - 6 * MIB) < MIB // 10
        stats = client.stats()
        assert abs(stats.image_bytes - 6 * MIB) < MIB // 10
        du = weigh(daemon.store).total
        assert abs(stats.store_bytes - du) < max(du / 20, 64 * 1024), "what is podman's is not in the store"
        wait_until(lambda: abs(_image_bytes(daemon) - 6 * MIB) < MIB // 10, 20, "Prometheus' figure")
        client.pin(found.id)
        assert found.id not in {victim.object.id for victim in client.gc(target_bytes=0).victims}
        client.unpin(found.id)
        planned = client.gc(dry_run=True, target_bytes=0)
        assert found.id in {victim.object.id for victim in planned.victims}
        assert world.images() == [image]
        removed = client.remove(found.id[: len("image/") + 12])
        assert abs(removed.freed_bytes - 6 * MIB) < MIB // 10
        assert _images(client) == []
    assert (world.images(), _notes(daemon)) == ([], [])
