"""Running a tool: as the right user, with all that it starts, ended to the last process.

Each run has a thread of :data:`_THREADS`, so that nothing waits on the event loop and so that subprocess's
own ``user=``/``group=`` can be used (uvloop's subprocesses have none).
"""

import asyncio
import contextlib
import functools
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent import process_tree
from ray_envd.agent.errors import ToolMissingError
from ray_envd.agent.process_tree import Brand
from ray_envd.cache.owner import Owner

_log = logging.getLogger(__name__)
#: One thread a running tool; builds are bounded elsewhere, so this is never the limit.
_THREADS = ThreadPoolExecutor(max_workers=256, thread_name_prefix="tool")
#: Lines of output kept in memory: more than any tool prints that is not stuck in a loop.
_KEPT_LINES = 20_000
_LONGEST_LINE = 64 * 1024
#: Nice value of tools: behind the daemon, which answers hits meanwhile, before workers, which Ray gives 15.
#: Kernels that share cores out by session heed it among the tools and the daemon only, see :func:`_apart`.
_NICE = 10
_KILL_AFTER = 0.5  # seconds between SIGTERM and SIGKILL
_END_WITHIN = 1.0  # seconds for SIGKILL to take effect, and then for the output to end
_LOOK_EVERY = 0.05  # seconds, where the kernel cannot tell that a process has ended

#: The store whose daemon this process is; its tools carry the name.
_mark: dict[str, str] = {}

LineCallback = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Completed:
    """How a tool ended. ``lines`` are stdout and stderr in the order they came, without line ends."""

    returncode: int
    lines: tuple[str, ...]

    @property
    def killed_by(self) -> str:
        """The name of the signal that ended it; empty where it ended by itself."""
        return signal.Signals(-self.returncode).name if self.returncode < 0 else ""

    def tail(self, count: int = 20) -> tuple[str, ...]:
        """The last lines that are not blank."""
        return tuple([line for line in self.lines if line.strip()][-count:])


class _Lines:
    """Cuts a stream into lines."""

    def __init__(self, on_line: LineCallback | None) -> None:
        self.kept: deque[str] = deque(maxlen=_KEPT_LINES)
        self._on_line, self._rest = on_line, b""

    def feed(self, chunk: bytes) -> None:
        """The next piece; a line without an end is cut where it is too long."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for raw in whole:
            self._line(raw)
        if len(self._rest) > _LONGEST_LINE:
            self.close()

    def close(self) -> None:
        """There is no more."""
        rest, self._rest = self._rest, b""
        if rest:
            self._line(rest)

    def _line(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip("\r")
        self.kept.append(line)
        if self._on_line is not None:
            self._on_line(line)


class _Run:
    """One run of a tool: everything but :meth:`cancel` happens in its thread."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | str, owner: Owner, stdin: int
    ) -> None:
        self._brand = Brand.new(_mark.get(process_tree.STORE_VARIABLE, ""))
        self._env = {**env, **_mark, **self._brand.variables}
        self._argv, self._cwd, self._owner, self._stdin = list(argv), str(cwd), owner, stdin
        self._lock = threading.Lock()  # guards _wake's life
        self._wake: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._cancelled = False

    def cancel(self) -> None:
        """Asks for the end of the run; from any thread, at any time."""
        self._cancelled = True
        with self._lock:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def blocking(self, on_line: LineCallback | None) -> Completed:
        """Starts the tool, reads it to its end, ends what it left running, and reaps it."""
        try:
            if self._cancelled:
                return Completed(-signal.SIGKILL, ())
            process = process_tree.start(self._brand, self._start)
            try:
                return self._attend(process, _Lines(on_line))
            finally:
                process_tree.ended(process.pid)
                process_tree.reap()
        finally:
            with self._lock:
                wake, self._wake = self._wake, None
            assert wake is not None  # noqa: S101 - a run runs once
            os.close(wake)

    def _start(self) -> "subprocess.Popen[bytes]":
        identity: dict[str, object] = {}
        if not self._owner.is_current:
            identity = {
                "user": self._owner.uid,
                "group": self._owner.gid,
                "extra_groups": self._owner.groups(),
            }
        made: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]  # user, group and extra_groups or none
            self._argv,
            env=self._env,
            cwd=self._cwd,
            stdin=self._stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **_apart(),
            umask=0o077,
            **identity,
        )
        with contextlib.suppress(OSError):  # it may have ended
            os.setpriority(os.PRIO_PROCESS, made.pid, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        return made

    def _attend(self, process: "subprocess.Popen[bytes]", lines: _Lines) -> Completed:
        assert process.stdout is not None  # noqa: S101 - asked for above
        whole = False
        with process.stdout as stream, _exit_of(process) as exit_:
            os.set_blocking(stream.fileno(), False)
            try:
                self._follow(process, stream.fileno(), exit_, lines)
                whole = not self._cancelled
            finally:
                self._end_all(by_force=not whole)
                returncode = _returncode(process)
                _drain(stream.fileno(), lines)
        return Completed(returncode, tuple(lines.kept))

    def _follow(self, process: "subprocess.Popen[bytes]", output: int, exit_: int, lines: _Lines) -> None:
        """Returns when the tool has ended, or has not half a second after it was asked to."""
        poll, deadline = select.poll(), None
        assert self._wake is not None  # noqa: S101 - closed after this
        for descriptor in (output, self._wake, *([exit_] if exit_ >= 0 else [])):
            poll.register(descriptor, select.POLLIN)
        while not _has_ended(process):
            events = dict(poll.poll(_milliseconds(deadline, exit_)))
            if output in events and not _read(output, lines):
                poll.unregister(output)  # the tool has closed its output, or is just about to end
            if self._wake in events:
                poll.unregister(self._wake)
                deadline = time.monotonic() + _KILL_AFTER
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGTERM)
            if deadline is not None and time.monotonic() >= deadline:
                return

    def _end_all(self, *, by_force: bool) -> None:
        """A build leaves nothing running, whether it succeeded or not."""
        if by_force or process_tree.left_behind(self._brand):
            left = process_tree.end(self._brand, _END_WITHIN)
            if left:
                _log.warning("%d processes of %s cannot be ended", left, self._argv[0])


@functools.cache
def _apart() -> dict[str, Any]:
    """What keeps signals for a tool's group from the daemon, and a terminal's from the tool; words of Popen.

    Not a session of its own, if it can be helped: where the kernel shares cores out among sessions
    (autogroups, sched(7)), a nice value counts within one only, and each tool would have as much of them as
    the daemon has with all of its threads.
    Where the daemon has a terminal, a tool in its session could ask somebody there for a password.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return {"process_group": 0}
    return {"start_new_session": True}


@contextlib.contextmanager
def _exit_of(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    """A descriptor that is readable once the process has ended; -1 on a kernel before 5.3."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it is a zombie. It stays one: its number is its group's until all of that is gone."""
    try:
        seen = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return seen is not None


def _milliseconds(deadline: float | None, exit_: int) -> float | None:
    waits = [_LOOK_EVERY] if exit_ < 0 else []
    if deadline is not None:
        waits.append(max(0.0, deadline - time.monotonic()))
    return min(waits) * 1000 if waits else None


def _read(output: int, lines: _Lines) -> bool:
    """Reads what is there; False at the end."""
    try:
        chunk = os.read(output, 65536)
    except BlockingIOError:
        return True
    lines.feed(chunk)
    return bool(chunk)


def _drain(output: int, lines: _Lines) -> None:
    """The rest of the output. Everybody who wrote has ended; who could not be ended is not waited for."""
    poll, deadline = select.poll(), time.monotonic() + _END_WITHIN
    poll.register(output, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000) and _read(output, lines):
        pass
    lines.close()


def _returncode(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(_END_WITHIN)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL  # in the kernel's hands, which reaps it when it can


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | str,
    owner: Owner,
    stdin: int = subprocess.DEVNULL,
    on_line: LineCallback | None = None,
) -> Completed:
    """Runs a tool to its end and returns how it ended; a non-zero exit is not an exception.

    When the tool has ended, what it started ends too. Cancelling the caller ends all of it: SIGTERM to the
    tool's group, half a second later SIGKILL to every process of the run wherever it has gone; the
    cancellation is passed on when none is left.

    Args:
        argv: program and arguments; never put a secret here, every user of the machine can read it.
        env: the complete environment.
        cwd: working folder.
        owner: the user whom the processes run as.
        stdin: a descriptor that the tool reads; it stays the caller's.
        on_line: called in another thread with each line of output.

    Raises:
        ToolMissingError: the program does not exist or may not be run.
    """
    loop = asyncio.get_running_loop()
    attempt = _Run(argv, env, cwd, owner, stdin)
    future = loop.run_in_executor(_THREADS, attempt.blocking, on_line)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        attempt.cancel()
        await asyncio.wait({future}, timeout=_KILL_AFTER + 3 * _END_WITHIN)
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise ToolMissingError(
            f"{argv[0]} cannot be run: {error.strerror}",
            remedy="run `ray-envd doctor` on this node",
        ) from error


def adopt(store: Path) -> int:
    """Marks this daemon's tools, and kills those that an earlier daemon of the store left behind; blocking.

    A daemon that was killed could not end its builds. They would write where the next one builds, and hold
    uv's locks for as long as they last. Call once, holding the store's lock, before any tool runs. Returns
    how many processes were killed.
    """
    _mark[process_tree.STORE_VARIABLE] = str(store)
    return process_tree.adopt(str(store))
