"""A driver whose workers end in other ways than by themselves; the answers are one JSON object.

stdin: {"init": {arguments of ray.init}, "image": runtime env of the actor, "limited": one with a limit of its
memory, "broken": one whose container cannot start, "denied": one that is against the policy}.
"""

import json
import os
import sys
import time
from typing import Any

import ray


def pids() -> list[int]:
    """This worker and a child of it."""
    import subprocess  # noqa: PLC0415 - in the worker

    return [os.getpid(), subprocess.Popen(["sleep", "600"]).pid]


@ray.remote(num_cpus=0)
class Actor:
    """Lives until it is killed."""

    def pids(self) -> list[int]:
        """This worker and a child of it."""
        return pids()


@ray.remote(num_cpus=0, max_retries=0)
def greedy() -> int:
    """More than the limit."""
    return len(bytearray(10**9))


@ray.remote(num_cpus=0, max_retries=0)
def modest() -> str:
    """Works."""
    return "well"


def is_there(pid: int) -> bool:
    """Whether it runs."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def seconds_until_gone(found: list[int]) -> float:
    """At most a minute."""
    began = time.monotonic()
    while any(map(is_there, found)) and time.monotonic() - began < 60:
        time.sleep(0.05)
    return time.monotonic() - began


def error_of(call: Any) -> list[str]:
    """Its class and text."""
    try:
        return ["no error", str(ray.get(call, timeout=90))]
    except Exception as error:  # noqa: BLE001 - whatever Ray raises is the answer
        return [type(error).__name__, str(error)]


def main() -> None:
    """The command."""
    wanted = json.load(sys.stdin)
    ray.init(**wanted["init"])
    actor = Actor.options(runtime_env=wanted["image"]).remote()
    stays = Actor.options(runtime_env=wanted["image"]).remote()
    broken = [modest.options(runtime_env=wanted["broken"]).remote() for _ in range(3)]
    killed, left = ray.get([actor.pids.remote(), stays.pids.remote()])
    ray.kill(actor)
    answer = {"kill": seconds_until_gone(killed)}
    answer["limited"] = error_of(greedy.options(runtime_env=wanted["limited"]).remote())
    answer["broken"] = [error_of(each) for each in broken]
    answer["denied"] = error_of(modest.options(runtime_env=wanted["denied"]).remote())
    answer["well"] = ray.get(modest.options(runtime_env=wanted["limited"]).remote(), timeout=60)
    answer["stays"] = all(map(is_there, left)) and ray.get(stays.pids.remote())[0] == left[0]
    answer["left"] = left
    sys.stdout.write(f"\nRESULT {json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
