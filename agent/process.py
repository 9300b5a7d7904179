"""Running a tool: as the right user, in a process group of its own, with a deadline, killed as a group.

The blocking part runs in a thread of :data:`_THREADS`, so that nothing waits on the event loop and so
that subprocess's own ``user=``/``group=`` can be used (uvloop's subprocesses have none).
"""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ray_envd.agent.errors import ToolMissingError
from ray_envd.cache.owner import Owner, acting_as

#: One thread a running tool; builds are bounded elsewhere, so this is never the limit.
_THREADS = ThreadPoolExecutor(max_workers=256, thread_name_prefix="tool")
#: Lines of output kept in memory: more than any tool prints that is not stuck in a loop.
_KEPT_LINES = 20_000
_ROUNDS = 100
_KILL_AFTER = 0.5  # seconds between SIGTERM and SIGKILL

#: In the environment of every tool, and so of its children: the store of the daemon that runs it.
_VARIABLE = "RAY_ENVD_TOOL_OF"
_mark: dict[str, str] = {}

LineCallback = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Completed:
    """How a tool ended. ``lines`` are stdout and stderr in the order they came, without line ends."""

    returncode: int
    lines: tuple[str, ...]

    def tail(self, count: int = 20) -> tuple[str, ...]:
        """The last lines that are not blank."""
        return tuple([line for line in self.lines if line.strip()][-count:])


class _Run:
    """One run of a tool; ``blocking`` belongs to its thread, ``kill`` to anybody."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | str, owner: Owner) -> None:
        self._argv, self._env, self._cwd, self._owner = list(argv), {**env, **_mark}, str(cwd), owner
        self._lock = threading.Lock()  # guards _process and _killed: kill() may come before the start
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def _start(self) -> subprocess.Popen[bytes]:
        identity: dict[str, object] = {}
        if not self._owner.is_current:
            identity = {
                "user": self._owner.uid,
                "group": self._owner.gid,
                "extra_groups": self._owner.groups(),
            }
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            self._argv,
            env=self._env,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            **identity,
        )

    def blocking(self, on_line: LineCallback | None) -> Completed:
        """Starts the tool, reads it to its end and reaps it."""
        with self._lock:
            if self._killed:
                return Completed(-signal.SIGKILL, ())
            process = self._process = self._start()
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        assert process.stdout is not None  # noqa: S101 - asked for above
        with process.stdout as stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\r\n")
                lines.append(line)
                if on_line is not None:
                    on_line(line)
        return Completed(process.wait(), tuple(lines))

    def kill(self, sig: signal.Signals) -> None:
        """Signals the whole process group; harmless when it is gone."""
        with self._lock:
            self._killed = True
            if self._process is None:
                return
            try:
                os.killpg(self._process.pid, sig)
            except ProcessLookupError:
                return


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | str,
    owner: Owner,
    on_line: LineCallback | None = None,
) -> Completed:
    """Runs a tool to its end and returns how it ended; a non-zero exit is not an exception.

    Cancelling the caller ends the whole process group: SIGTERM, SIGKILL half a second later; the
    cancellation is passed on once every process of the group that holds the output pipe is gone.

    Args:
        argv: program and arguments; never put a secret here, every user of the machine can read it.
        env: the complete environment.
        cwd: working folder.
        owner: the user whom the processes run as.
        on_line: called in another thread with each line of output.

    Raises:
        ToolMissingError: the program does not exist or may not be run.
    """
    loop = asyncio.get_running_loop()
    attempt = _Run(argv, env, cwd, owner)
    future = loop.run_in_executor(_THREADS, attempt.blocking, on_line)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _end(attempt, future)
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise ToolMissingError(
            f"{argv[0]} cannot be run: {error.strerror}",
            remedy="run `ray-envd doctor` on this node",
        ) from error


async def _end(attempt: _Run, future: "asyncio.Future[Completed]") -> None:
    attempt.kill(signal.SIGTERM)
    done, _ = await asyncio.wait({future}, timeout=_KILL_AFTER)
    # Also when the leader is gone: a grandchild may have ignored the first signal.
    attempt.kill(signal.SIGKILL)
    if not done:
        await asyncio.wait({future}, timeout=2)


def save_log(path: Path, argv: Sequence[str], completed: Completed, owner: Owner) -> str:
    """Writes a tool's full output where its user can read it; blocking. Returns the path.

    Pass lines that are already redacted.
    """
    with acting_as(owner):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = "\n".join((f"$ {' '.join(argv)}", *completed.lines, f"exit code {completed.returncode}", ""))
        path.write_text(text)
    return str(path)


def adopt(store: Path) -> int:
    """Marks this daemon's tools, and kills those that an earlier daemon of the store left behind; blocking.

    A daemon that was killed could not end its builds. They would write where the next one builds, and hold
    uv's locks for as long as they last. Call once, holding the store's lock, before any tool runs. Returns
    how many processes were killed.
    """
    _mark[_VARIABLE] = str(store)
    needle, killed = f"{_VARIABLE}={store}".encode(), 0
    for _ in range(_ROUNDS):
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        found = sum(_kill_if_marked(pid, needle) for pid in pids)
        if not found:
            break
        killed += found
        time.sleep(0.01)  # what they started meanwhile is found in the next round
    return killed


def _kill_if_marked(pid: int, needle: bytes) -> bool:
    """Kills a living process with the mark; through a pidfd, so that it is the one that was looked at."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Of a process that is no more than a zombie it is empty.
        if needle not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
