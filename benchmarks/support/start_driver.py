"""A driver that starts workers and says how long each took; it stays for the next question.

stdin, a line each: a JSON list of runtime envs, one for each actor that is wanted at once. stdout: ``TOOK``
and JSON, the seconds from the first submission to each actor's first answer. Their workers are gone then.
"""

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


def main() -> None:
    """The command."""
    ray.init(log_to_driver=False)
    for line in sys.stdin:
        sys.stdout.write(f"\nTOOK {json.dumps(took(json.loads(line)))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
