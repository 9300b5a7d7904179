"""Every process of a tool's run, wherever it has gone: found, ended, reaped.

A tool runs other people's code (a ``setup.py``), and that may start processes in sessions of their own,
orphan them, or clear their environment. A process group does not hold them. Two marks do, either is enough:

- the *brand*: a number in the soft limit ``RLIMIT_LOCKS``. No Linux since 2.4.25 looks at this limit
  (getrlimit(2)), yet every child inherits it whatever it does to its session, parents and environment, and
  ``/proc/<pid>/limits`` shows it. Its upper half stands for the store, its lower half for the run;
- two variables of the environment, for processes that set limits anew, such as those behind ``su``.

What descends from a marked process belongs to it too. The daemon is a *child subreaper* (prctl(2)): a tool's
orphans become its children, so it sees at once whether a run left any, and none stays a zombie.

Everything here is blocking.
"""

import contextlib
import ctypes
import hashlib
import os
import resource
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: In the environment of every tool, and so of its children: the daemon's store, and the run.
STORE_VARIABLE = "RAY_ENVD_TOOL_OF"
RUN_VARIABLE = "RAY_ENVD_TOOL_RUN"

_RLIMIT_LOCKS = 10  # asm-generic/resource.h; the module resource has no name for it
_BRAND_ROW = b"Max file locks"
_PR_SET_CHILD_SUBREAPER = 36
_RUN_BITS = 32
_FAMILY_BITS = 30  # with them a brand stays below 2**62, and never is RLIM_INFINITY
_PAUSE = 0.005  # seconds between two looks

_libc = ctypes.CDLL(None, use_errno=True)
#: Held while a tool is started: the brand passes through this process's own limit, and a child that is not
#: among the leaders yet must not be reaped.
_starting = threading.Lock()
_leaders: set[int] = set()

Belongs = Callable[[int], bool]


class _Reaper:
    """Whether this process takes its tools' orphans."""

    active = False


@dataclass(frozen=True, slots=True)
class Brand:
    """What tells the processes of one run from all others."""

    number: int

    @classmethod
    def new(cls, store: str) -> "Brand":
        """The brand of a run that starts now."""
        return cls(_family(store) << _RUN_BITS | secrets.randbits(_RUN_BITS))

    @property
    def variables(self) -> Mapping[str, str]:
        """What goes into the run's environment."""
        return {RUN_VARIABLE: f"{self.number:x}"}

    def marks(self, pid: int) -> bool:
        """Whether a process carries it."""
        variable = f"{RUN_VARIABLE}={self.number:x}".encode()
        return _brand_of(pid) == self.number or variable in _environment(pid)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process at one look."""

    parent: int
    start: int
    lives: bool


def start(brand: Brand, make: Callable[[], "subprocess.Popen[bytes]"]) -> "subprocess.Popen[bytes]":
    """Starts a process that carries the brand from its first instruction on."""
    with _starting:
        before = resource.getrlimit(_RLIMIT_LOCKS)
        # Where somebody has lowered the hard limit, the environment has to do.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(_RLIMIT_LOCKS, (brand.number, before[1]))
        try:
            process = make()
        finally:
            resource.setrlimit(_RLIMIT_LOCKS, before)
        _leaders.add(process.pid)
    return process


def ended(leader: int) -> None:
    """The process that :func:`start` made is reaped."""
    _leaders.discard(leader)


def become_reaper() -> None:
    """From now on orphans of this process's descendants become its children; for a daemon, once."""
    _Reaper.active = _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def reap() -> None:
    """Takes dead orphans off the table of processes. Leaders are left to whoever waits for them."""
    if not _Reaper.active:
        return
    with _starting:
        try:
            # A leader is a zombie for an instant only; what stands behind it is found at the next call.
            while (seen := _next_zombie()) and seen not in _leaders:
                os.waitpid(seen, os.WNOHANG)
        except ChildProcessError:
            return


def _next_zombie() -> int:
    found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return 0 if found is None else found.si_pid


def left_behind(brand: Brand) -> bool:
    """Whether processes of a run whose leader has ended still live; cheap in a daemon."""
    if _Reaper.active:
        try:
            # Orphans become children of the main thread (kernel: find_new_reaper), which starts no tools.
            words = Path(f"/proc/self/task/{os.getpid()}/children").read_bytes().split()
        except OSError:
            pass  # a kernel without CONFIG_PROC_CHILDREN
        else:
            orphans = {int(word) for word in words} - _leaders
            return any(brand.marks(pid) for pid in orphans)
    return bool(_members(brand.marks))


def end(brand: Brand, within: float) -> int:
    """Kills all processes of a run, also those that are started meanwhile.

    Returns how many live on after ``within`` seconds: only those that the kernel does not let go, or that
    belong to a user whom this one may not signal.
    """
    return _end(brand.marks, within)[1]


def adopt(store: str, within: float = 2.0) -> int:
    """Kills what an earlier daemon of this store left running; returns how many processes that were."""
    family, variable = _family(store), f"{STORE_VARIABLE}={store}".encode()

    def belongs(pid: int) -> bool:
        brand = _brand_of(pid)
        return (brand is not None and brand >> _RUN_BITS == family) or variable in _environment(pid)

    return _end(belongs, within)[0]


def _end(belongs: Belongs, within: float) -> tuple[int, int]:
    """How many processes were killed, and how many of them are left."""
    deadline, killed, quiet = time.monotonic() + within, set[tuple[int, int]](), 0
    while True:
        found = _members(belongs)
        killed |= {(pid, seen.start) for pid, seen in found.items() if _kill(pid, seen.start)}
        reap()
        # One look may miss a child whose parent ended while the table was read.
        quiet = 0 if found else quiet + 1
        if quiet > 1 or time.monotonic() > deadline:
            return len(killed), len(found)
        time.sleep(_PAUSE)


def _members(belongs: Belongs) -> dict[int, _Seen]:
    """The living processes that carry a mark, and their descendants, oldest first; never this process."""
    table = {pid: seen for pid in _pids() if (seen := _look(pid)) is not None and pid != os.getpid()}
    children: dict[int, list[int]] = {}
    for pid, seen in table.items():
        children.setdefault(seen.parent, []).append(pid)
    pending = [pid for pid, seen in table.items() if seen.lives and belongs(pid)]
    members: dict[int, _Seen] = {}
    while pending:
        pid = pending.pop()
        if pid not in members:
            members[pid] = table[pid]
            pending.extend(children.get(pid, ()))
    # The oldest first: a parent that outlives its child might do something about it.
    living = [(pid, seen) for pid, seen in members.items() if seen.lives]
    return dict(sorted(living, key=lambda each: (each[1].start, each[0])))


def _pids() -> Iterable[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _look(pid: int) -> _Seen | None:
    """Proc(5), ``stat``: fields 3 (state), 4 (parent) and 22 (start); the command may hold anything."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return _Seen(int(words[1]), int(words[19]), words[0] not in {b"Z", b"X"})


def _brand_of(pid: int) -> int | None:
    try:
        limits = Path(f"/proc/{pid}/limits").read_bytes()
    except OSError:
        return None
    row = limits.partition(_BRAND_ROW)[2].split(maxsplit=1)
    return int(row[0]) if row and row[0].isdigit() else None


def _environment(pid: int) -> list[bytes]:
    """The variables a process was started with; empty for a zombie, and for one that is not ours to see."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _family(store: str) -> int:
    digest = hashlib.sha256(store.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - _FAMILY_BITS)


def _kill(pid: int, started: int) -> bool:
    """Kills the process that was looked at, and no other that has its number now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:
        descriptor = -1  # a kernel before 5.3
    try:
        seen = _look(pid)
        if seen is None or seen.start != started:
            return False
        if descriptor < 0:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True
