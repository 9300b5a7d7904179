"""A driver that gives up: submits a task or makes an actor in a runtime env, and does as it is told.

argv: ``task`` or ``actor``. stdin: the runtime env as JSON, then a word a line: ``cancel`` (the task),
``kill`` (the actor), ``again`` (one more task in the same env, which is not given up).
"""

import json
import sys

import ray


@ray.remote(num_cpus=0, max_retries=0)
def work() -> str:
    """A task."""
    return "done"


@ray.remote(num_cpus=0)
class Worker:
    """An actor."""


def main() -> None:
    """The command."""
    ray.init(log_to_driver=False)
    runtime_env = json.loads(sys.stdin.readline())
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
