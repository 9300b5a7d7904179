"""Clients that ask an HTTP port for the same thing again and again, each time on a new connection.

The program is ``load.c``, compiled when it is first used: written in Python, the clients took more of the
machine than the agent that they were to measure.
"""

import functools
import json
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from processes import NodeError

_SOURCE = Path(__file__).with_name("load.c")
_WARM = 10  # requests of each client that do not count


@dataclass(frozen=True)
class Load:
    """What the clients saw together.

    Attributes:
        rate: answers per second.
        took: microseconds of each request.
        own: microseconds of processor time that the clients themselves used for a request.
    """

    rate: float
    took: list[float]
    own: float

    @property
    def p50(self) -> float:
        """Half of the answers within so many milliseconds."""
        return statistics.median(self.took) / 1000

    @property
    def p99(self) -> float:
        """99 % of the answers within so many milliseconds."""
        return statistics.quantiles(self.took, n=100)[98] / 1000


def load(address: tuple[str, int], request: bytes, *, clients: int, requests: int) -> Load:
    """So many requests are under way at any time until so many are answered.

    Raises:
        NodeError: one was not, or not with 200; or there is no compiler.
    """
    folder, program = _program()
    command = [program, *map(str, (*address, clients, requests, clients * _WARM))]
    done = subprocess.run(command, input=request, capture_output=True, check=False, cwd=folder.name)
    if done.returncode:
        raise NodeError(f"clients of {address[0]}:{address[1]}: {done.stderr.decode().strip()}")
    found = json.loads(done.stdout)
    return Load(found["rate"], found["took"], found["processor"] / requests * 1e6)


@functools.cache
def _program() -> "tuple[tempfile.TemporaryDirectory[str], str]":
    """The compiled program, and the folder that goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="rebl-")
    program = f"{folder.name}/load"
    done = subprocess.run(["gcc", "-O2", "-o", program, _SOURCE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeError(f"cannot compile {_SOURCE.name}: {done.stderr}")
    return folder, program
