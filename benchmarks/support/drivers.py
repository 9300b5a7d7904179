"""A Ray driver that waits for questions, from outside."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import NodeError
from rays import RayNode

_DRIVER = Path(__file__).with_name("start_driver.py")


class Driver:
    """A driver on a node, connected, which starts workers when it is asked to; it ends with the node."""

    def __init__(self, node: RayNode) -> None:
        self._process = node.spawn([_DRIVER], stderr=subprocess.DEVNULL)

    def took(self, *envs: dict[str, Any]) -> float:
        """Seconds from the submission of an actor in each env at once to the last one's first answer."""
        return float(max(self._ask({"actors": envs})))

    def task(self, env: dict[str, Any], module: str) -> tuple[float, bool]:
        """Seconds from a task's submission to its result, and whether its env has a module."""
        seconds, (has,) = self.tasks([(env, module)])
        return seconds, has

    def tasks(self, tasks: Sequence[tuple[dict[str, Any], str]]) -> tuple[float, list[bool]]:
        """Seconds from the first submission to the last result of tasks, and whether each has its module."""
        seconds, has = self._ask({"tasks": tasks})
        return float(seconds), has

    def _ask(self, question: dict[str, Any]) -> Any:
        """The answer.

        Raises:
            NodeError: the driver has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise NodeError("a driver without pipes")
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        for line in stdout:
            if line.startswith("TOOK "):
                return json.loads(line.removeprefix("TOOK "))
        raise NodeError(f"the driver ended with {self._process.wait()}")
