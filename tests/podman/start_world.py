"""Starts of workers without a raylet: what a daemon answers, run as Ray runs it."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import small_image as small_images
from podman_world import PodmanWorld

from ray_envd.agent.bench import Bench
from ray_envd.agent.containers.images import Image
from ray_envd.agent.containers.platform import ImagePlatform
from ray_envd.agent.containers.policy import Policy
from ray_envd.agent.containers.start import Starts
from ray_envd.agent.containers.watch import Watch
from ray_envd.agent.context import Contribution
from ray_envd.agent.image_spec import ImageSpec
from ray_envd.agent.installers import Installers
from ray_envd.agent.installers.protocol import Installer
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.podman.host import Hosts
from ray_envd.agent.preparation import Preparation
from ray_envd.agent.progress import Progress
from ray_envd.agent.sessions import Session
from ray_envd.agent.slots import Slots
from ray_envd.agent.spec import parse
from ray_envd.agent.workshop import Workshop
from ray_envd.cache.budget import Budget
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Store

#: The worker: what it finds stands in a file of its own, then it waits for its end.
_WORKER = """
import json, os, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
found = {
    "pid": os.getpid(), "child": child.pid, "argv": sys.argv, "cwd": os.getcwd(), "uid": os.getuid(),
    "environment": dict(os.environ), "oom_score_adj": int(open("/proc/self/oom_score_adj").read()),
    "descriptors": [fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)],
}
place = pathlib.Path(sys.argv[1])
place.with_suffix(".part").write_text(json.dumps(found))
place.with_suffix(".part").rename(place)
time.sleep(600)
"""


class ThisImage:
    """An installer of the image that is there: everything but how it came there."""

    field = "image"

    def __init__(self, image: Image, platform: ImagePlatform, starts: Starts) -> None:
        self.image, self.platform, self.starts = image, platform, starts

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: ImageSpec, bench: Bench) -> Contribution:
        container = await self.starts.container(self.image, self.platform, value, bench)
        return Contribution(container=container)


class Place:
    """An installer of a working dir that is there."""

    field = "working_dir"

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: str, _bench: Bench) -> Contribution:
        return Contribution(working_dir=value, python_path=(value,))


class StartWorld:
    """A session of a raylet that this process stands for."""

    def __init__(
        self, world: PodmanWorld, folder: Path, policy: Policy, environment: Mapping[str, str]
    ) -> None:
        self.world, self.folder = world, folder
        self.ray = folder / "ray"
        runtime_env_dir = self.ray / "session_1" / "runtime_resources"
        runtime_env_dir.mkdir(parents=True)
        store = Store.open(folder / "store")
        budget = Budget(None, lambda: shutil.disk_usage(folder).free, 0)
        self.workshop = Workshop(store, budget, Metrics(), Slots(2, 2))
        self.session = Session(
            id=f"0-test-{os.getpid()}-{os.urandom(3).hex()}",
            owner=Owner.current(),
            python=sys.executable,
            environment={**os.environ, **world.variables, **environment},
            runtime_env_dir=runtime_env_dir,
            session_dir=str(runtime_env_dir.parent),
            temp_dir=str(self.ray),
        )
        self.stand_for(os.getpid())
        self.worker = self.ray / "worker.py"
        self.worker.write_text(_WORKER)
        self.watch = Watch(lambda: {self.session.id: self.session})
        self.lines: list[str] = []
        installers: dict[str, Installer] = {"image": self._image(policy), "working_dir": Place()}
        self._preparation = Preparation(self.workshop, Installers(lambda: installers))

    def stand_for(self, pid: int) -> None:
        """Has this process be the raylet."""
        start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        self.session = replace(self.session, raylet_pid=pid, raylet_start=start)

    def _image(self, policy: Policy) -> ThisImage:
        shown = json.loads(self.world.podman("image", "inspect", "localhost/small"))[0]
        variables = dict(pair.split("=", 1) for pair in shown["Config"].get("Env") or [])
        entry: Any = None  # nothing of this module looks at the object
        image = Image(entry, shown["Id"], shown["Digest"], variables, is_new=False)
        interpreter: Any = SimpleNamespace(executable=small_images.PYTHON)
        platform: Any = SimpleNamespace(interpreter=interpreter, worker_path=str(self.worker))
        return ThisImage(image, platform, Starts(Hosts(), policy, self.watch.attend))

    async def prepare(self, **runtime_env: Any) -> str:
        """The words with which Ray starts a worker."""
        spec = parse(json.dumps(runtime_env))
        progress = Progress()
        progress.listen(lambda event: self.lines.append(event.line()))
        prepared = await self._preparation.run(self.session, spec, progress)
        prepared.close()
        context = json.loads(prepared.context)
        assert context["command_prefix"] == []
        assert context["env_vars"] == {}
        return str(context["py_executable"])

    def start(self, py_executable: str, name: str = "w", **environment: str) -> "Started":
        """Starts a worker as ``RuntimeEnvContext.exec_worker`` does."""
        answer = self.ray / f"{name}.json"
        arguments = ["/host/workers/default_worker.py", str(answer), "--x=a b", "it's"]
        command = f"exec {py_executable} {shlex.join(arguments)}"
        process = subprocess.Popen(
            ["bash", "-c", command],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Started(process, answer)

    def close(self) -> None:
        """Ends every container of this session."""
        for name in self.world.containers():
            if self.session.id in name:
                self.world.podman("rm", "-f", "-t", "0", "-i", name)
        self.workshop.close()
        self.workshop.store.close()


class Started:
    """A worker that was started."""

    def __init__(self, process: "subprocess.Popen[str]", answer: Path) -> None:
        self.process, self._answer = process, answer

    async def found(self, deadline: float = 30.0) -> dict[str, Any]:
        """What the worker found."""
        ends = time.monotonic() + deadline
        while not await asyncio.to_thread(self._answer.exists):
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}: {self.process.communicate()}")
            assert time.monotonic() < ends, "the worker does not come up"
            await asyncio.sleep(0.05)
        whole: dict[str, Any] = json.loads(await asyncio.to_thread(self._answer.read_text))
        return whole

    async def ended(self, deadline: float = 30.0) -> int:
        """Its exit code."""
        return await asyncio.to_thread(self.process.wait, deadline)


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.asynccontextmanager
async def watching(world: StartWorld) -> AsyncIterator[None]:
    """The daemon's watch is at work."""
    task = asyncio.create_task(world.watch.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
