"""What the tests on real Ray say: which Ray, what to ask of its workers, how to read the answers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rays import ASK, RayNode

VERSIONS = ("2.60.0", "2.49.1")
# The same tests on Ray's own agent: to see that a test is right before ray-envd is blamed.
STOCK = os.environ.get("RAY_ENVD_TEST_STOCK") == "1"
DRIVERS = Path(__file__).parent / "drivers"
SETUP_ERROR = "RuntimeEnvSetupError"


def task(code: str, runtime_env: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An ask that runs as a task; the code sets ``answer``."""
    return {"code": code, "runtime_env": runtime_env, **more}


def actor(code: str, runtime_env: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An ask that runs as an actor's method."""
    return {"code": code, "runtime_env": runtime_env, "actor": True, **more}


@dataclass(frozen=True)
class Reply:
    """The answers to some asks, in their order, and what the driver's user saw."""

    answers: list[dict[str, Any]]
    output: str

    @property
    def values(self) -> list[Any]:
        """The values; a failed ask fails the test with its message."""
        for answer in self.answers:
            assert "value" in answer, f"{answer.get('error')}: {answer.get('message')}\n{self.output[-3000:]}"
        return [answer["value"] for answer in self.answers]

    @property
    def value(self) -> Any:
        """The only value."""
        (value,) = self.values
        return value

    @property
    def error(self) -> dict[str, Any]:
        """The only answer, which is an error."""
        (answer,) = self.answers
        assert "error" in answer, f"no error but {answer}"
        return answer


def ask(node: RayNode, *asks: dict[str, Any], address: str | None = None, **more: Any) -> Reply:
    """Runs a driver on a node with these asks; ``init`` holds arguments of ray.init."""
    init = {"address": address or node.address, "log_to_driver": True, **more.pop("init", {})}
    options = {name: more.pop(name) for name in ("apart", "linger") if name in more}
    answer = node.run(ASK, {"init": init, "asks": asks, **options}, **more)
    return Reply(answer.value, answer.output)
