"""What this machine, or the container that the daemon runs in, has to give: cores and memory."""

import contextlib
import math
import os
import resource
from pathlib import Path

#: Bytes of memory that one build is expected to need at most: a compiler at work on something large.
BUILD_BYTES = 1024**3
#: More builds than so many for a core only take each other's time.
_MOST_PER_CORE = 4
#: Memory limits of version 1 of cgroups say "none" by a number near this one.
_UNLIMITED = 2**62

_OPEN_FILES = 65536

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its cgroup rounded up."""
    allowed = len(os.sched_getaffinity(0))
    for folder in _folders("cpu"):
        quota, period = _cpu_limit(folder)
        if quota > 0 and period > 0:
            allowed = min(allowed, math.ceil(quota / period))
    return max(1, allowed)


def _cpu_limit(folder: Path) -> tuple[int, int]:
    """Microseconds of processor time, and in how many; (0, 0) without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)
    with contextlib.suppress(OSError, ValueError):
        return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())
    return 0, 0


def memory_bytes() -> int:
    """Bytes of memory: the machine's, or the lowest limit of this process's cgroup and those above it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdecimal() and 0 < int(text) < _UNLIMITED:
                found = min(found, int(text))
    return found


def default_parallelism() -> int:
    """Builds that may start at once: one for each core, if there is memory for them."""
    return max(1, min(cores(), memory_bytes() // BUILD_BYTES))


def long_builds(parallelism: int) -> int:
    """Builds that may run on beside those: as many as memory allows, within reason, but one at least."""
    total = min(memory_bytes() // BUILD_BYTES, parallelism * _MOST_PER_CORE)
    return max(1, total - parallelism)


def raise_file_limit() -> None:
    """A thousand raylets' requests at once are a thousand sockets; a service often starts with as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _folders(controller: str) -> list[Path]:
    """The cgroup of this process and those above it: of version 2, and of a controller of version 1.

    In a container both end at its own cgroup, which stands where the host has the root.
    """
    try:
        rows = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for row in rows:
        _, names, path = row.split(":", 2)
        if names and controller not in names.split(","):
            continue
        base = _CGROUPS / controller if names else _CGROUPS
        group = base / path.lstrip("/")
        found += [folder for folder in (group, *group.parents) if folder == base or base in folder.parents]
    return found
