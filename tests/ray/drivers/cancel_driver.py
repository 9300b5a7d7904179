"""A driver that gives up: submits a task or makes an actor in a runtime env, and does as it is told.

argv: ``task`` or ``actor``. stdin: the runtime env as JSON, then a word a line: ``cancel`` (the task),
``kill`` (the actor), ``again`` (one more task in the same env, which is not given up). Or argv ``leave``: a
detached actor starts an actor in the env, and the driver ends; and ``ask``: that one's answer.
"""

import json
import sys
from typing import Any

import ray


@ray.remote(num_cpus=0, max_retries=0)
def work() -> str:
    """A task."""
    return "done"


@ray.remote(num_cpus=0)
class Worker:
    """An actor."""

    def work(self) -> str:
        """A method."""
        return "done"


@ray.remote(num_cpus=0)
class Keeper:
    """An actor that outlives its job."""

    def start(self, runtime_env: dict[str, Any]) -> None:
        """Makes an actor, which is of that job too."""
        self.worker = Worker.options(runtime_env=runtime_env).remote()

    def answer(self) -> str:
        """Once that actor is there."""
        return str(ray.get(self.worker.work.remote()))


def keep(kind: str, runtime_env: dict[str, Any]) -> None:
    """What a job leaves behind, and what another sees of it."""
    if kind == "leave":
        keeper = Keeper.options(name="keeper", lifetime="detached").remote()
        ray.get(keeper.start.remote(runtime_env))
    else:
        keeper = ray.get_actor("keeper")
        sys.stdout.write(f"ANSWER {ray.get(keeper.answer.remote(), timeout=90)}\n")
        ray.kill(keeper)


def main() -> None:
    """The command."""
    ray.init(log_to_driver=False, namespace="cancel")
    runtime_env = json.loads(sys.stdin.readline())
    if sys.argv[1] in {"leave", "ask"}:
        keep(sys.argv[1], runtime_env)
        return
    wanted = (work if sys.argv[1] == "task" else Worker).options(runtime_env=runtime_env)
    first = wanted.remote()
    for line in sys.stdin:
        word = line.strip()
        if word == "cancel":
            ray.cancel(first)
        elif word == "kill":
            ray.kill(first)
        elif word == "again":
            sys.stdout.write(f"ANSWER {ray.get(wanted.remote(), timeout=90)}\n")
        sys.stdout.flush()


main()
