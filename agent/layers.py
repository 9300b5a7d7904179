"""A session's own layer over an environment of the store: what its workers run in, and write into.

The environment belongs to every session that needs the same set. So no worker runs in it itself. What a
worker installs, upgrades or writes goes into its session's layer; tools refuse to uninstall what the
environment holds, since it lies outside of ``sys.prefix``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ray_envd.agent.bench import Bench
from ray_envd.agent.environments import Environment
from ray_envd.agent.python.build import WorkerFacts, worker_facts
from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.layer import make_layer
from ray_envd.agent.trees import LAYERS, Trees

#: Enough to tell a session's environments apart, and short: the kernel reads 127 bytes of a first line.
_DIGITS = 16


class Layers:
    """Makes layers."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    async def over(self, environment: Environment, bench: Bench, field: str) -> tuple[Path, WorkerFacts]:
        """The session's layer over an environment, and how a worker starts in it.

        Raises:
            EnvError: the disk.
        """
        entry, interpreter = environment.entry, environment.interpreter
        digest, dot, generation = entry.path.name.partition(".")
        # Another object of the same name, built after this one was collected, may have other scripts.
        path = await self._trees.obtain(
            bench.session,
            LAYERS,
            f"{digest[:_DIGITS]}{dot}{generation}",
            f"{entry.path.name} {entry.created}",
            partial(_make, interpreter, entry.path / "venv"),
            bench.reporter(field),
        )
        return path, worker_facts(path, interpreter)


def _make(interpreter: Interpreter, below: Path, target: Path, _stopped: Callable[[], bool]) -> int:
    make_layer(interpreter, below, target)
    return 0  # not worth counting
