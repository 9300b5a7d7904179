"""A driver that starts workers and says how long each took; it stays for the next question.

stdin, a line each: ``{"actors": [runtime envs]}``, one for each actor that is wanted at once, or
``{"tasks": [[runtime env, name of a module]]}``, submitted at once. stdout: ``TOOK`` and JSON: of actors the
seconds from the first submission to each one's first answer; of tasks the seconds from the first submission
to the last result, and of each whether its module can be imported there. Their workers are gone then.
"""

import importlib.util
import json
import os
import sys
import time
from typing import Any

import ray


@ray.remote(num_cpus=0)
class Worker:
    """In a process of its own."""

    def pid(self) -> int:
        """Of this process, which the host sees under the same number."""
        return os.getpid()


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def look(module: str) -> tuple[int, bool]:
    """In a process of its own, which ends with it."""
    return os.getpid(), importlib.util.find_spec(module) is not None


def wait_gone(pids: list[int]) -> None:
    """The next measurement has the machine to itself."""
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):  # noqa: PTH110 - no library to load
        time.sleep(0.02)


def took(envs: list[dict[str, Any]]) -> list[float]:
    """Starts an actor in each env, and ends them."""
    began = time.perf_counter()
    actors = [Worker.options(runtime_env=env).remote() for env in envs]
    waiting = {actor.pid.remote(): actor for actor in actors}
    seconds, pids, left = [], [], list(waiting)
    while left:
        (done,), left = ray.wait(left, num_returns=1)
        pids.append(ray.get(done))
        seconds.append(time.perf_counter() - began)
    for actor in actors:
        ray.kill(actor)
    wait_gone(pids)
    return seconds


def tasks_took(tasks: list[tuple[dict[str, Any], str]]) -> tuple[float, list[bool]]:
    """Runs tasks, each in its env."""
    began = time.perf_counter()
    found = ray.get([look.options(runtime_env=env).remote(module) for env, module in tasks])
    seconds = time.perf_counter() - began
    wait_gone([pid for pid, _ in found])
    return seconds, [has for _, has in found]


def main() -> None:
    """The command."""
    ray.init(log_to_driver=False)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = took(asked["actors"]) if "actors" in asked else tasks_took(asked["tasks"])
        sys.stdout.write(f"\nTOOK {json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
