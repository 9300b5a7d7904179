"""Starts of workers in containers, with a real podman."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from helpers import wait_until
from podman_world import PodmanWorld
from start_world import Started, StartWorld, is_running, watching

from ray_envd.agent.containers.plan import marks
from ray_envd.agent.containers.policy import Policy
from ray_envd.agent.containers.watch import Watch
from ray_envd.agent.errors import ContainerError, DeniedError, InvalidSpecError

IMAGE = "localhost/small:latest"
SECRET = 'it\'s "q" `id` $(id) \\ & | ünï ☃\nline 2\t${PATH}|$NOPE|${NOPE}'
MakeStarts = Callable[..., Awaitable[StartWorld]]


def _command_lines() -> str:
    return "".join(each.read_text(errors="replace") for each in Path("/proc").glob("[0-9]*/cmdline"))


@pytest.fixture
def starts(podman_world: PodmanWorld, short_tmp: Path) -> Iterator[MakeStarts]:
    made: list[StartWorld] = []

    async def make(policy: Policy | None = None, environment: Mapping[str, str] | None = None) -> StartWorld:
        folder = short_tmp / str(len(made))
        arguments = (podman_world, folder, policy or Policy(), environment or {})
        made.append(await asyncio.to_thread(StartWorld, *arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_a_worker_gets_exactly_what_it_is_to_get(starts: MakeStarts, podman_world: PodmanWorld) -> None:
    """Values with every sign that a shell knows, the working dir, arguments; no word to others."""
    token = "canary-token-4711"
    world = await starts(environment={"PYTHONPATH": "/raylets"})
    place = world.ray / "it's; here"
    place.mkdir()
    words = await world.prepare(
        image={"uri": IMAGE, "run_options": ["-e", "OPTION=canary $HOME"]},
        env_vars={"A": SECRET, "B": "${A}!", "PATH": "/first:${PATH}", "C-D": "canary"},
        working_dir=str(place),
    )
    worker = world.start(words, RAY_AUTH_TOKEN=token, RAY_ENVD_STORE="/s", PLAIN="x", http_proxy="http://p:1")
    found = await worker.found()
    seen = found["environment"]
    path = "/opt/ray/bin:/usr/bin:/bin"
    assert seen["A"] == SECRET.replace("${PATH}", path).replace("${NOPE}", "")
    assert seen["B"] == f"{seen['A']}!"
    assert (seen["PATH"], seen["C-D"], seen["OPTION"]) == (f"/first:{path}", "canary", "canary $HOME")
    assert (seen["PYTHONPATH"], seen["PWD"], found["cwd"]) == (str(place),) * 3
    assert (seen["RAY_AUTH_TOKEN"], seen["http_proxy"]) == (token, "http://p:1")
    assert not {"RAY_ENVD_STORE", "PLAIN"} & seen.keys()
    assert found["argv"] == [str(world.worker), str(world.ray / "w.json"), "--x=a b", "it's"]
    assert set(found["descriptors"]) <= {"0", "1", "2"}
    assert found["uid"] == os.geteuid()

    (name,) = [each for each in podman_world.containers() if world.session.id in each]
    told = podman_world.podman("inspect", name)
    told += _command_lines()
    assert "canary" not in told
    assert json.loads(podman_world.podman("inspect", name))[0]["HostConfig"]["LogConfig"]["Type"] == "none"

    os.kill(found["pid"], signal.SIGKILL)
    assert await worker.ended(5) == 128 + signal.SIGKILL
    assert not is_running(found["child"])
    assert not [each for each in podman_world.containers() if world.session.id in each]


async def test_limits_and_mounts(starts: MakeStarts, short_tmp: Path) -> None:
    """Memory is limited; what is allowed is mounted by its real path, everything else is refused."""
    allowed, other = short_tmp / "allowed", short_tmp / "other"
    for folder in (allowed, other):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    (allowed / "out").symlink_to(other)
    (short_tmp / "in").symlink_to(allowed)
    world = await starts(Policy(mounts=(short_tmp / "in",), memory=300 * 2**20))
    for mount in (str(other), str(allowed / "out"), "/etc"):
        with pytest.raises(DeniedError, match="container_mounts"):
            await world.prepare(image={"uri": IMAGE, "mounts": [mount]})
    for target in (str(world.ray / "x"), "/tmp", "/proc", "/dev/x"):
        with pytest.raises(InvalidSpecError, match="nothing can be mounted"):
            await world.prepare(image={"uri": IMAGE, "mounts": [f"{allowed}:{target}"]})
    with pytest.raises(DeniedError, match="working_dir"):
        await world.prepare(image=IMAGE, working_dir=f"local://{other}")
    world.worker.write_text(
        "import os, sys\n"
        "print(open('/m/file').read(), os.access('/m/file', os.W_OK), flush=True)\n"
        "x = bytearray(10**9)\n"
    )
    words = await world.prepare(image={"uri": IMAGE, "mounts": [f"{allowed}:/m"]})
    worker = world.start(words)
    assert await worker.ended() == 128 + signal.SIGKILL
    assert worker.process.communicate()[0].split() == ["allowed", "False"]


async def test_what_cannot_start_is_told_before_any_raylet_tries(starts: MakeStarts) -> None:
    """A bad option is podman's own complaint; what is alike is tried once."""
    world = await starts()
    with pytest.raises(ContainerError) as caught:
        await world.prepare(container={"image": IMAGE, "run_options": ["--cap-drop=NO_SUCH_THING"]})
    assert "NO_SUCH_THING" in str(caught.value)
    assert caught.value.field == "container"
    with pytest.raises(ContainerError, match=r"(?i)memory"):
        await world.prepare(container={"image": IMAGE, "run_options": ["-m", "1m"]})
    await asyncio.gather(*(world.prepare(image=IMAGE, env_vars={"N": str(n)}) for n in range(3)))
    before = len(world.lines)
    await world.prepare(image=IMAGE, env_vars={"N": "again"})
    assert len(world.lines) == before > 0
    assert not [each for each in world.world.containers() if world.session.id in each]


async def test_a_container_that_nobody_waits_for_is_removed(starts: MakeStarts) -> None:
    """Gone five seconds after podman run was killed, and others stay; so when the daemon was away."""
    world = await starts()
    words = await world.prepare(image=IMAGE)
    async with watching(world):
        lost, kept = world.start(words, "lost"), world.start(words, "kept")
        found, other = await lost.found(), await kept.found()
        lost.process.kill()
        await _gone(found, 5)
        folder = marks(world.session.runtime_env_dir)
        await asyncio.to_thread(wait_until, lambda: len(list(folder.iterdir())) == 2, 5, "one mark less")
        assert is_running(other["pid"])
    # The daemon is away meanwhile, and the raylet too in the end.
    kept.process.kill()
    await asyncio.sleep(0)
    assert is_running(other["pid"])
    async with watching(world):
        await _gone(other, 5)


async def test_containers_go_with_their_raylet(starts: MakeStarts) -> None:
    """Also where podman run is still there, and the daemon was away when the raylet died."""
    world = await starts()
    raylet = await asyncio.create_subprocess_exec("sleep", "600")
    world.stand_for(raylet.pid)
    words = await world.prepare(image=IMAGE)
    facts = await asyncio.to_thread(world.session.facts)
    worker = world.start(words)
    found = await worker.found()
    raylet.kill()
    await raylet.wait()
    world.watch = Watch(dict)
    world.watch.recover({world.session.id: facts})
    async with watching(world):
        await _gone(found, 6)
        await worker.ended(5)


async def _gone(found: Mapping[str, int], seconds: float) -> None:
    def gone() -> bool:
        return not is_running(found["pid"]) and not is_running(found["child"])

    await asyncio.to_thread(wait_until, gone, seconds, "the end of a container")


async def test_a_start_that_is_given_up_does_not_run(starts: MakeStarts) -> None:
    """The worker's code does not begin once podman run has been killed, however late its container comes."""
    world = await starts()
    words = await world.prepare(image=IMAGE)
    worker: Started = world.start(words)
    folder = marks(world.session.runtime_env_dir)
    await asyncio.to_thread(wait_until, lambda: list(folder.glob("*")), 20, "a mark", every=0.005)
    worker.process.kill()
    async with watching(world):
        await asyncio.to_thread(wait_until, lambda: not list(folder.iterdir()), 20, "no mark any more")
    assert not (world.ray / "w.json").exists()
    assert not [each for each in world.world.containers() if world.session.id in each]
