"""A driver: runs pieces of code as tasks or actors in runtime envs and prints their answers.

stdin: {"init": {arguments of ray.init}, "asks": [{"code", "runtime_env", "actor"}], "apart": bool};
with "apart" an ask begins when the one before it is answered. Code sets ``answer``.
stdout: ``RESULT`` and a JSON list, for each ask {"value"} or {"error", "message"}, and "seconds".
"""

import json
import sys
import time
from typing import Any

import ray


def work(code: str) -> Any:
    """Runs in the worker."""
    names: dict[str, Any] = {}
    exec(code, names)
    return names["answer"]


@ray.remote(num_cpus=0)
class Worker:
    """Runs in a worker of its own."""

    def work(self, code: str) -> Any:
        """Runs in the actor."""
        names: dict[str, Any] = {}
        exec(code, names)
        return names["answer"]


def submit(ask: dict[str, Any]) -> Any:
    """The future answer to an ask, and whatever must be kept for it."""
    options = {"runtime_env": ask["runtime_env"]} if ask.get("runtime_env") is not None else {}
    if ask.get("actor"):
        actor = Worker.options(**options).remote()
        return actor.work.remote(ask["code"]), actor
    return ray.remote(num_cpus=0, max_retries=0)(work).options(**options).remote(ask["code"]), None


def attempt(ask: dict[str, Any]) -> Any:
    """Submits; a runtime env that Ray refuses in the driver is an answer too."""
    try:
        return submit(ask)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises is what the test asks about
        return error


def answer(submitted: Any, began: float) -> dict[str, Any]:
    """What came of it."""
    found: dict[str, Any]
    if isinstance(submitted, Exception):
        found = failure(submitted)
    else:
        try:
            found = {"value": ray.get(submitted[0], timeout=120)}
        except Exception as error:  # noqa: BLE001 - as above
            found = failure(error)
    return {**found, "seconds": time.monotonic() - began}


def answer_alone(ask: dict[str, Any]) -> dict[str, Any]:
    """Submits and waits."""
    began = time.monotonic()
    return answer(attempt(ask), began)


def failure(error: Exception) -> dict[str, Any]:
    """An error as an answer."""
    return {"error": type(error).__name__, "message": str(error)}


def answers(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Asks everything."""
    try:
        ray.init(**wanted.get("init", {}))
    except Exception as error:  # noqa: BLE001 - as above
        return [failure(error)]
    began = time.monotonic()
    if not wanted.get("apart"):
        running = [attempt(ask) for ask in wanted["asks"]]
        return [answer(submitted, began) for submitted in running]
    return [answer_alone(ask) for ask in wanted["asks"]]


def main() -> None:
    """The command."""
    wanted = json.load(sys.stdin)
    found = answers(wanted)
    time.sleep(wanted.get("linger", 0))  # so that log lines of workers arrive
    sys.stdout.write(f"\nRESULT {json.dumps(found)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
