"""Processes that tests, demo and benchmarks start: wait for them, find them by a mark, end them by their id.

Whatever a cluster starts inherits one mark in its environment, so that all of it can be found and ended, and
nothing else ever is.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MARK = "ENVD_TEST_MARK"


class NodeError(Exception):
    """A process did not come up, or a driver failed; the message holds its output."""


def wait_until(
    condition: Callable[[], Any], deadline: float = 20.0, what: str = "", every: float = 0.02
) -> Any:
    """The first true value of a condition, asked again and again.

    Raises:
        TimeoutError: it was not true within ``deadline`` seconds.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline:g} s: {what or condition}")
        time.sleep(every)
    return value


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def marked(mark: str) -> list[int]:
    """The living processes that carry a mark in their environment or command line, oldest first."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sorted(pid for pid in pids if _carries(pid, mark))


def _carries(pid: int, mark: str) -> bool:
    if pid == os.getpid() or not alive(pid):
        return False
    needle = mark.encode()
    with contextlib.suppress(OSError):
        # Ray overwrites the command line of its workers, hence both.
        return any(needle in Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline"))
    return False


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def threads(pid: int) -> str:
    """A line for each thread of a process: its state and where in the kernel it waits."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with contextlib.suppress(OSError):
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            lines.append(
                f"{task.name} {(task / 'comm').read_text().strip()} {state} {(task / 'wchan').read_text()}"
            )
    return "\n".join(lines)


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Sends a signal to processes by their id; those that are gone already do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_marked(mark: str, spare: Iterable[int] = ()) -> None:
    """Kills all that carries a mark, also what is started meanwhile."""
    spared = set(spare)

    def none_left() -> bool:
        left = [pid for pid in marked(mark) if pid not in spared]
        kill(left)
        return not left

    wait_until(none_left, 20, f"end of the processes marked {mark}", every=0.05)


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would steer Ray or the daemon, and with ``more``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ENVD_", "COV_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}
