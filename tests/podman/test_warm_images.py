"""Images that are prepared before anybody asks for them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from daemons import Daemon
from image_world import ImageNode, random_image
from package_world import make_wheel
from podman_world import PodmanWorld
from processes import clean_environment
from registries import Registry

from ray_envd.agent.local_sessions import LocalSessions
from ray_envd.agent.prefetch import Prefetcher
from ray_envd.agent.warm import Pauses, Warm
from ray_envd.agent.warm_file import Wanted
from ray_envd.cache.pins import Pins


async def test_a_warm_image_stays_until_it_leaves_the_file(
    node: ImageNode, registry: Registry, podman_folder: Path, tmp_path: Path
) -> None:
    """No collection takes it, what somebody removes comes back, and then it goes like any other."""
    image = random_image(podman_folder / "layers", 1, seed=40)
    name, file = registry.push(image, "warm/app", "1"), tmp_path / "warm.json"

    def want(*names: str) -> None:
        envs = [{"runtime_env": {"image": each}} for each in names]
        said = {"python": "/ray/python", "environment": node.world.variables, "envs": envs}
        file.write_text(json.dumps(said))

    await asyncio.to_thread(want, name)
    warm = Warm(
        Prefetcher(node.manager, LocalSessions(node.manager, node.store, None)),
        node.store,
        await asyncio.to_thread(Pins, node.store, node.store.layout.warm_pins),
        file,
        node.workshop.thread,
        Pauses(look=0.05, first=0.1),
    )

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - of things that know of no event
                await asyncio.sleep(0.02)

    warm.start(await asyncio.to_thread(Wanted.at, file))
    try:
        await until(lambda: warm.count()["ready"] == 1)
        await node.collector.collect(0)
        assert await node.has(image.id)
        assert not (await node.obtain(await node.session(), name)).is_new
        await node.podman("rmi", "-f", image.id)
        await node.images.look()
        await until(lambda: [each.pinned for each in node.objects()] == [True])
        assert await node.has(image.id)
        await asyncio.to_thread(want)
        await until(lambda: [each.pinned for each in node.objects()] == [False])
        await node.collector.collect(0)
        assert not await node.has(image.id)
    finally:
        await warm.stop()


def test_a_daemon_prefetches_packages_over_an_image(
    start_daemon: Callable[..., Daemon], podman_world: PodmanWorld, tmp_path: Path
) -> None:
    """With podman's own variables, which the raylets have too; nothing of it is left but what is stored."""
    daemon = start_daemon()
    make_wheel(tmp_path, "ahead", "1.0")
    options = ["--no-index", "--find-links", str(tmp_path)]
    pip = {"packages": ["ahead"], "pip_install_options": options}
    spec = json.dumps({"image": "localhost/small:latest", "pip": pip, "env_vars": {"A": "canary"}})
    passed = [word for name in podman_world.variables for word in ("--pass-env", name)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ray_envd",
            "prefetch",
            "--socket",
            str(daemon.socket),
            spec,
            *passed,
            "--json",
        ],
        env=clean_environment(**podman_world.variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {each.partition("/")[0] for each in result["objects"]} == {"image", "python"}
    assert (daemon.stats().references, daemon.stats().sessions) == (0, 0)
    assert list(daemon.store.glob("users/*/local/*")) == []
    assert not [name for name in podman_world.containers() if str(os.getpid()) in name]
