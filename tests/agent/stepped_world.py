"""A manager with everything below it in which nothing happens unasked, and the envs that it is asked for."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from manager_world import World
from stepped import Jobs, SteppedLoop

from ray_envd.agent.bench import Bench
from ray_envd.agent.context import Contribution
from ray_envd.agent.errors import BuildError, NetworkError
from ray_envd.agent.spec import digest_of_serialized
from ray_envd.agent.workshop import Made
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner
from ray_envd.cache.store import Build

#: Env -> the objects on which it stands. Envs share objects, one needs none, one is no runtime env at all.
ENVS = {"a": "A", "ab": "AB", "bc": "BC", "cd": "CD", "none": "", "bad": ""}
SERIALIZED = {
    name: json.dumps({"pip": {"objects": list(objects)}, "env_vars": {"NAME": name}})
    for name, objects in ENVS.items()
    if objects
} | {"none": '{"env_vars": {"N": "1"}}', "bad": '{"env_vars": 3}'}
DIGEST = {name: digest_of_serialized(text) for name, text in SERIALIZED.items()}
RETRIES, INTERVAL, FAILURE_TTL, PASSING_TTL, MOST_IDLE = 2, 1.0, 600.0, 5.0, 2
LASTING, PASSING, BUG, TIMED_OUT = (
    "broken for good",
    "broken for now",
    "unexpected Zero",
    "within the timeout",
)
FAILURES: dict[str, Callable[[], Exception]] = {
    LASTING: lambda: BuildError(LASTING, field="pip"),
    PASSING: lambda: NetworkError(PASSING, field="pip"),
    BUG: ZeroDivisionError,
}


def key(name: str) -> ObjectKey:
    return ObjectKey(Owner.current().uid, "python", digest_of(name))


class CommandedInstaller:
    """Builds small objects, when and as it is told.

    Attributes:
        builds: those under way: what will become of each.
        begun: how many were begun.
    """

    field = "pip"

    def __init__(self) -> None:
        self.builds: dict[str, asyncio.Future[str]] = {}
        self.begun = 0

    def needs_working_dir(self, _value: Any) -> bool:
        return False

    async def prepare(self, value: Any, bench: Bench) -> Contribution:
        built = False
        for name in value["objects"]:
            _, made = await bench.obtain(
                key(name),
                partial(self._fill, name, bench),
                field="pip",
                summary=name,
                reserve=1000,
            )
            built = built or made
        return Contribution(objects=tuple(map(key, value["objects"])), built=built)

    async def _fill(self, name: str, bench: Bench, build: Build, *_: Any) -> Made:
        assert name not in self.builds, f"{name} is built twice at a time"
        self.begun += 1
        told = self.builds[name] = asyncio.get_running_loop().create_future()
        try:
            await bench.thread((build.path / "half").write_text, "half")
            outcome = await told
            if outcome:
                failure = FAILURES[outcome]()
                raise failure
            await bench.thread((build.path / "content").write_text, name * 100)
        finally:
            del self.builds[name]
        return Made({"name": name})


class SteppedWorld(World):
    """A daemon's inside in which nothing happens unasked."""

    def __init__(self, root: Path) -> None:
        self.root, self.installer = root, CommandedInstaller()
        self.open()

    def open(self) -> None:
        self.loop, self.jobs = SteppedLoop(), Jobs()
        self.loop.set_default_executor(self.jobs)
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.installer.builds.clear()
        super().open()
        self.manager.uses.clock = self.loop.time
        self.workshop._threads = self.jobs
        self.workshop.guard.knows = lambda *_: True  # nothing is ever damaged here

    def run(self, work: Any) -> Any:
        """Runs something to its end, with all the jobs that it needs."""
        task = self.loop.create_task(work)
        self.settle()
        return task.result()

    def settle(self) -> None:
        """Runs all that can run without more time."""
        self.loop.run_ready()
        while self.jobs:
            while self.jobs.waiting:
                self.jobs.work()
            if self.jobs.done:
                self.jobs.report(0)
            self.loop.run_ready()

    def kill(self) -> None:
        """What a SIGKILL leaves: nothing more is done on the disk, all memory is gone."""
        self.jobs.kill()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_ready()
        self.logs.close()
        self.store._catalog.close()
        self.store._process_lock.release()
        self.loop.close()
