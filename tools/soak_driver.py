"""A job of the soak: tasks and actors in changing envs until it is told to end; writes what came of each.

Runs in Ray's interpreter. stdin: {"address", "world", "seed", "job": folder, "data": its digest, "variables",
"inflight", "results": file, "stop": file, "attempts": file, "drain": seconds}. A line of ``results`` is one
task: {"id", "kind", "actor", "runtime_env", "refused", "submitted", "ended", "error", "message", "problems",
"began"}; a line of ``attempts`` says that a task or an actor (a task's "actor") began on a raylet: {"id",
"raylet", "began"}. Times are Unix seconds.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from soak_world import Draws, Wanted, World

_ACTORS, _CALLS, _PAUSE = 2, 4, 1.5  # at once, calls of each, seconds between them


def begin(name: str, attempts: str) -> float:
    """Runs in the worker: notes where a task or an actor begins; returns when."""
    import json  # noqa: PLC0415 - this function travels to the worker alone
    import os  # noqa: PLC0415 - as above
    import time  # noqa: PLC0415 - as above

    began = time.time()
    with open(attempts, "a") as file:
        raylet = int(os.environ.get("RAY_RAYLET_PID") or os.getppid())
        file.write(json.dumps({"id": name, "raylet": raylet, "began": began}) + "\n")
    return began


def look(wanted: dict[str, Any], task: str, attempts: str) -> dict[str, Any]:
    """Runs in the worker: what of the env is not as it must be. It leaves a file in its folder."""
    import hashlib  # noqa: PLC0415 - this function travels to the worker alone
    import importlib  # noqa: PLC0415 - as above
    import importlib.metadata  # noqa: PLC0415 - as above
    import os  # noqa: PLC0415 - as above
    from pathlib import Path  # noqa: PLC0415 - as above

    began = begin(task, attempts)
    problems: list[str] = []

    def compare(what: str, found: object, right: object) -> None:
        if found != right:
            problems.append(f"{what} is {found!r}, not {right!r}")

    def payload(name: str) -> str:
        module = importlib.import_module(name)
        if module.__file__ is None:
            # A folder without __init__.py: a package of which something is missing.
            found = {place: sorted(os.listdir(place)) for place in module.__path__}  # noqa: PTH208 - short
            raise ImportError(f"{name} is a namespace: {found}")
        return hashlib.sha256((Path(str(module.__file__)).parent / "data.bin").read_bytes()).hexdigest()

    try:
        for package in wanted["packages"]:
            name = package["name"]
            compare(f"version of {name}", importlib.metadata.version(name), package["version"])
            compare(f"payload of {name}", payload(name.replace("-", "_")), package["digest"])
        for name, digest in wanted["modules"].items():
            compare(f"payload of {name}", payload(name), digest)
        for name, value in wanted["variables"].items():
            compare(name, os.environ.get(name), value)
        if wanted["data"]:
            compare("data.bin", hashlib.sha256(Path("data.bin").read_bytes()).hexdigest(), wanted["data"])
            Path(f"scratch-{os.getpid()}").write_text(task)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong with the env
        problems.append(f"{type(error).__name__}: {error}")
    return {"problems": problems, "began": began}


@ray.remote(num_cpus=0.1)
class Keeper:
    """Holds its env for a while, and looks at it again and again."""

    def __init__(self, name: str, attempts: str) -> None:
        begin(name, attempts)

    def look(self, wanted: dict[str, Any], task: str, attempts: str) -> dict[str, Any]:
        """As a task does."""
        return look(wanted, task, attempts)


class Job:
    """One driver's life."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self._draws = Draws(World.read(Path(asked["world"])), asked["seed"])
        self._results = Path(asked["results"])
        self._pending: dict[Any, dict[str, Any]] = {}
        self._actors: list[dict[str, Any]] = []
        self._number = 0

    def run(self) -> None:
        """Until told to stop and all is answered, or ``drain`` seconds have passed since."""
        stop = Path(self._asked["stop"])
        while not stop.exists():
            while len(self._pending) < self._asked["inflight"]:
                self._submit()
            self._keep_actors()
            self._gather()
        self._actors.clear()
        end = time.monotonic() + self._asked["drain"]
        while self._pending and time.monotonic() < end:
            self._gather()
        for record in self._pending.values():
            self._write(record, error="Hung", message="no answer in time")

    def _expected(self, wanted: Wanted) -> dict[str, Any]:
        """What the job's own env adds: its variables, and its folder where the task names none."""
        expected = asdict(wanted)
        expected["variables"] = {**self._asked["variables"], **wanted.variables}
        expected["data"] = wanted.data or self._asked["data"]
        return expected

    def _record(self, wanted: Wanted, kind: str, actor: str = "") -> dict[str, Any]:
        self._number += 1
        return {
            "id": f"{self._asked['seed']}-{self._number}",
            "kind": kind,
            "actor": actor,
            "runtime_env": wanted.runtime_env,
            "refused": wanted.refused,
            "submitted": time.time(),
        }

    def _submit(self) -> None:
        wanted = self._draws.next()
        record = self._record(wanted, wanted.kind)
        task = ray.remote(num_cpus=0.5)(look).options(runtime_env=wanted.runtime_env)
        self._pending[task.remote(self._expected(wanted), record["id"], self._asked["attempts"])] = record

    def _keep_actors(self) -> None:
        """Starts actors, and calls each a few times with pauses."""
        while len(self._actors) < _ACTORS:
            wanted = self._draws.of("pip")
            name = wanted.variables["SOAK_ENV"]
            handle = Keeper.options(runtime_env=wanted.runtime_env).remote(name, self._asked["attempts"])
            actor = {"name": name, "handle": handle, "wanted": wanted, "calls": 0, "next": 0.0, "busy": None}
            self._actors.append(actor)
        for actor in list(self._actors):
            if actor["busy"] in self._pending or time.monotonic() < actor["next"]:
                continue
            if actor["calls"] == _CALLS:
                self._actors.remove(actor)
                continue
            record = self._record(actor["wanted"], "actor", actor["name"])
            call = actor["handle"].look.remote(
                self._expected(actor["wanted"]), record["id"], self._asked["attempts"]
            )
            self._pending[call] = record
            actor.update(calls=actor["calls"] + 1, next=time.monotonic() + _PAUSE, busy=call)

    def _gather(self) -> None:
        done, _ = ray.wait(list(self._pending), num_returns=1, timeout=0.5)
        for reference in done:
            record = self._pending.pop(reference)
            try:
                self._write(record, **ray.get(reference))
            except Exception as error:  # noqa: BLE001 - whatever Ray raises is what came of it
                # A dead actor answers no more: the next one takes its place.
                self._actors = [actor for actor in self._actors if actor["busy"] != reference]
                self._write(record, error=type(error).__name__, message=str(error))

    def _write(self, record: dict[str, Any], **found: Any) -> None:
        with self._results.open("a") as file:
            file.write(json.dumps({**record, "ended": time.time(), **found}) + "\n")


def main() -> None:
    """The command."""
    asked = json.load(sys.stdin)
    env = {"working_dir": asked["job"], "env_vars": asked["variables"]}
    ray.init(asked["address"], runtime_env=env, log_to_driver=False, logging_level="ERROR")
    Job(asked).run()
    ray.shutdown()


if __name__ == "__main__":
    main()
