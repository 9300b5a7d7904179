"""An image's Python, and tools beside it, with real containers."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_image as small_images
from helpers import wait_until
from overlay_world import OverlayWorld, image_id, raylet_environment
from package_world import make_project
from podman_fixtures import MakeImage
from podman_world import PodmanWorld

from ray_envd.agent.errors import ToolMissingError, UnsupportedError
from ray_envd.cache.owner import Owner

SECRET = "line one\nline 'two' \"$HOME\" ünïcode-geheim"
#: Runs a tool in a container for ever, until somebody kills it.
_HANGS = """
import asyncio, sys
sys.path[:0] = sys.argv[5].split(":")
from pathlib import Path
from overlay_world import OverlayWorld, image_id, raylet_environment
from package_world import make_project
from podman_world import PodmanWorld
root, image, python, world = sys.argv[1:5]

async def main():
    here = OverlayWorld(Path(root), python, raylet_environment(PodmanWorld(Path(world)), Path(root))).open()
    async with here.bench(image) as bench:
        platform = await here.platform(image, bench)
        async with platform.tools(here.owner, read=[], write=[]) as run:
            def told(line):
                print(line, flush=True)
            argv = ["bash", "-c", "echo running; sleep 987 & sleep 986"]
            await run(argv, env={}, cwd="/", owner=here.owner, on_line=told)

asyncio.run(main())
"""


async def test_an_images_python_is_looked_for_once(
    overlay: OverlayWorld, podman_world: PodmanWorld, small_id: str
) -> None:
    """What it is, where Ray's worker is, nothing of the host's; the next daemon starts no container."""
    async with overlay.bench(small_id) as bench:
        platform = await overlay.platform(small_id, bench)
    python = platform.interpreter
    assert (python.executable, python.image, platform.image) == (small_images.PYTHON, small_id, small_id)
    assert python.ray_version == small_images.RAY_VERSION
    assert platform.worker_path == f"{small_images.site_packages()}/ray/_private/workers/default_worker.py"
    assert "/of/the/host" not in python.stamps  # on its path, had it seen the raylet's PYTHONPATH
    assert podman_world.containers() == []
    await asyncio.to_thread(overlay.close)
    await asyncio.to_thread(overlay.open)
    overlay.events.clear()
    async with overlay.bench(small_id) as bench:
        assert (await overlay.platform(small_id, bench)).interpreter == python
    assert [event.phase for event in overlay.events] == []


async def test_tools_run_in_the_image_and_leave_nothing(
    overlay: OverlayWorld, podman_world: PodmanWorld, small_id: str
) -> None:
    """Values arrive exactly and show nowhere, signals and codes are told, what a tool starts ends with it."""
    lines: list[str] = []
    async with overlay.bench(small_id) as bench:
        platform = await overlay.platform(small_id, bench)
        async with platform.tools(overlay.owner, read=[], write=[]) as run:

            async def bash(script: str, **env: str) -> tuple[int, tuple[str, ...]]:
                done = await run(
                    ["bash", "-c", script], env=env, cwd="/", owner=overlay.owner, on_line=lines.append
                )
                return done.returncode, done.lines

            told = (0, tuple(SECRET.split("\n")))
            assert await bash('printf "%s" "$X"', X=SECRET) == told
            assert tuple(lines) == told[1]
            shown = await asyncio.to_thread(_everything_shown, podman_world)
            assert "geheim" not in shown
            assert "ray-envd-tools" in shown
            raylets = {**overlay.environment, "PIP_X": "1"}
            _, seen = await bash("env", **raylets)
            assert "PIP_X=1" in seen
            assert f"HOME={overlay.environment['HOME']}" in seen
            assert not any(line.startswith("PYTHONPATH=") for line in seen)
            assert f"PATH={Path(small_images.PYTHON).parent}:/usr/bin:/bin" in seen
            assert await bash("exit 3") == (3, ())
            assert await bash("kill -9 $$") == (-signal.SIGKILL, ())
            await bash("sleep 981 & disown; (setsid sleep 982 &); true")
            assert "sleep" not in (await bash("cat /proc/[0-9]*/comm"))[1]
            with pytest.raises(ToolMissingError, match="glibc"):
                await run(["/no/such/uv"], env={}, cwd="/", owner=overlay.owner)
    assert podman_world.containers() == []


def _everything_shown(world: PodmanWorld) -> str:
    names = world.containers()
    return _processes() + world.podman("inspect", *names)


def _processes() -> str:
    return subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout


async def test_a_cancelled_run_ends_its_container(
    overlay: OverlayWorld, podman_world: PodmanWorld, small_id: str
) -> None:
    """Neither the container nor a record of it is left when the cancellation arrives."""
    async with overlay.bench(small_id) as bench:
        platform = await overlay.platform(small_id, bench)
        started = asyncio.Event()

        async def hang() -> None:
            async with platform.tools(overlay.owner, read=[], write=[]) as run:
                await run(
                    ["bash", "-c", "trap '' TERM; echo; sleep 984"],
                    env={},
                    cwd="/",
                    owner=overlay.owner,
                    on_line=lambda _line: started.set(),
                )

        task = asyncio.create_task(hang())
        await asyncio.wait_for(started.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert podman_world.containers() == []
    assert "sleep 984" not in await asyncio.to_thread(_processes)


def test_a_killed_daemon_leaves_no_container(
    podman_world: PodmanWorld, short_tmp: Path, small_id: str
) -> None:
    """The tools end with the socket, and podman, which lives on, removes what they ran in."""
    argv = [sys.executable, "-c", _HANGS, short_tmp, small_id, sys.executable, podman_world.folder]
    with subprocess.Popen([*argv, ":".join(sys.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        assert len(podman_world.containers()) == 1
        process.kill()
    wait_until(lambda: podman_world.containers() == [], 20, "the container removed")


async def test_an_image_that_ray_cannot_use_is_told_with_what_it_has(
    overlay: OverlayWorld, podman_world: PodmanWorld, small_id: str, make_image: MakeImage
) -> None:
    """Another Ray, another Python, no Ray, no Python: each error names both sides and the remedy."""
    site = small_images.site_packages()
    bare = make_image(
        "platform/bare", files={f"{site}/.wh.ray": b"", f"{site}/ray-2.60.0.dist-info/.wh.METADATA": b""}
    )
    none = make_image("platform/none", files={"/opt/.wh.ray": b""}, variables={"PATH": "/bin"})
    for name in (bare, none):
        await asyncio.to_thread(podman_world.podman, "pull", "-q", name)
    cases = [
        (
            small_id,
            "2.9.0",
            r"has Ray 2\.60\.0 \(.*\), the cluster has Ray 2\.9\.0.*\n  remedy: build the image with",
        ),
        (bare, "2.60.0", "imports Ray"),
        (none, "2.60.0", "imports Ray|has no Python"),
    ]
    for name, version, told in cases:
        overlay.ray_version = version
        image = name if name == small_id else await asyncio.to_thread(image_id, podman_world, name)
        async with overlay.bench(image) as bench:
            with pytest.raises(UnsupportedError, match=told) as raised:
                await overlay.platform(image, bench)
        assert raised.value.field == "image"
    assert podman_world.containers() == []


async def test_an_ordinary_user_has_it_too(rootless_world: PodmanWorld, short_tmp: Path) -> None:
    """As him, in his own storage: a Python is found, and an environment built that belongs to him."""
    user = rootless_world.user
    assert user is not None
    small = await asyncio.to_thread(image_id, rootless_world, "localhost/small")
    await asyncio.to_thread(short_tmp.chmod, 0o755)
    environment = raylet_environment(rootless_world, user.home)
    overlay = OverlayWorld(short_tmp, sys.executable, environment, owner=Owner.of(user.uid, user.gid))
    await asyncio.to_thread(overlay.open)
    try:
        project = await asyncio.to_thread(make_project, short_tmp / "src", "envdu", "1.0")
        await asyncio.to_thread(_give, short_tmp / "src", user.uid)
        built = await overlay.obtain(small, pip={"packages": ["--no-index", str(project)]})
        module = Path(built.entry.details["site_packages"], "envdu.py")
        assert (await asyncio.to_thread(module.stat)).st_uid == user.uid
    finally:
        await asyncio.to_thread(overlay.close)
    assert await asyncio.to_thread(rootless_world.containers) == []


def _give(folder: Path, uid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid)
