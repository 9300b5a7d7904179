"""How containers are started on a node: tried with a real one, and changed as podman's words demand.

Nothing is assumed of the machine. The first attempt is podman as the user has configured it; each failure
that is known leads to one change, until a container has run or nothing is left to change.
"""

import contextlib
import re
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray_envd.agent.podman.info import RUNTIMES, PodmanInfo
from ray_envd.cache.owner import Owner

_PID_MAX = Path("/proc/sys/kernel/pid_max")
_OPEN_FILES, _PROCESSES = "Max open files", "Max processes"


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits that a process without CAP_SYS_RESOURCE may set; -1 for none."""

    open_files: int
    processes: int

    def options(self) -> tuple[str, ...]:
        """Those of ``podman run``. It would ask for more than it has by itself."""
        pairs = (("nofile", self.open_files), ("nproc", self.processes))
        return tuple(f"--ulimit={name}={value}:{value}" for name, value in pairs)


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to start containers.

    Attributes:
        runtime: the OCI runtime; None for the one that is configured.
        cgroup_manager: None for the one that is configured.
        own_limits: whether limits are given, since podman's own are refused.
        host_ipc: whether the host's IPC namespace can be shared; else only its /dev/shm.
    """

    runtime: str | None = None
    cgroup_manager: str | None = None
    own_limits: bool = False
    host_ipc: bool = True

    def global_options(self) -> tuple[str, ...]:
        """What stands in front of podman's command."""
        manager = () if self.cgroup_manager is None else (f"--cgroup-manager={self.cgroup_manager}",)
        runtime = () if self.runtime is None else (f"--runtime={self.runtime}",)
        return (*manager, *runtime)

    def run_options(self, info: PodmanInfo, owner: Owner, limits: Limits) -> tuple[str, ...]:
        """What every container needs: the host's network, and to run as the owner of the files it shares."""
        return (
            "--pull=never",
            "--network=host",
            f"--userns={'keep-id' if info.rootless else 'host'}",
            f"--user={owner.uid}:{owner.gid}",
            "--http-proxy=false",  # it would stand in the container's configuration, password and all
            *(("--security-opt=label=disable",) if info.selinux else ()),
            *(limits.options() if self.own_limits else ()),
        )

    def worker_options(self) -> tuple[str, ...]:
        """What Ray's workers need beside: the raylet knows them by pid, and shares memory with them."""
        return ("--pid=host", "--ipc=host" if self.host_ipc else "--volume=/dev/shm:/dev/shm")


_Change = Callable[[Setup, PodmanInfo], Setup]


def _limit(setup: Setup, _info: PodmanInfo) -> Setup:
    return replace(setup, own_limits=True)


def _other_runtime(setup: Setup, info: PodmanInfo) -> Setup:
    """The runtimes in their order, each once, but for the configured one, which was tried first."""
    others = [None, *(name for name in RUNTIMES if name != info.runtime)]
    place = others.index(setup.runtime) + 1
    return replace(setup, runtime=others[place]) if place < len(others) else setup


def _cgroupfs(setup: Setup, _info: PodmanInfo) -> Setup:
    return replace(setup, cgroup_manager="cgroupfs")


def _private_ipc(setup: Setup, _info: PodmanInfo) -> Setup:
    return replace(setup, host_ipc=False)


#: The first whose words are said and which changes something is tried next.
_CHANGES: Sequence[tuple[re.Pattern[str], _Change]] = tuple(
    (re.compile(words, re.IGNORECASE), change)
    for words, change in (
        (r"rlimit", _limit),
        (r"mqueue", _private_ipc),
        (r"systemd|sd-bus|dbus|failed to connect to bus", _cgroupfs),
        (r"oci runtime.*not found|invalid runtime|hybrid mode|unknown version specified", _other_runtime),
        (r"cgroup", _cgroupfs),
        (r"cgroup|oci runtime error|(?:crun|runc): ", _other_runtime),
    )
)


def next_setup(setup: Setup, info: PodmanInfo, said: str) -> Setup | None:
    """What to try after a failure; None where nothing that is known would help."""
    for words, change in _CHANGES:
        if words.search(said) and (changed := change(setup, info)) != setup:
            return changed
    return None


def limits_of(*pids: int) -> Limits:
    """The lowest of these processes' hard limits and of this one's own; blocking.

    Containers are started by the daemon and by raylets, so what both may set must do. A process that cannot
    be seen is passed over.
    """
    open_files = [resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
    processes = [resource.getrlimit(resource.RLIMIT_NPROC)[1]]
    for pid in pids:
        rows = _rows(pid)
        open_files += rows.get(_OPEN_FILES, [])
        processes += rows.get(_PROCESSES, [])
    with contextlib.suppress(OSError, ValueError):
        # conmon has no more than this, whatever podman had.
        processes.append(int(_PID_MAX.read_text()))
    return Limits(_lowest(open_files), _lowest(processes))


def _lowest(values: Sequence[int]) -> int:
    return min((value for value in values if value >= 0), default=-1)


def _rows(pid: int) -> dict[str, list[int]]:
    """Hard limits by name (proc(5), ``limits``); "unlimited" is left out."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, hard = line[:26].rstrip(), line[26:].split()[1:2]
        found[name] = [int(word) for word in hard if word.isdecimal()]
    return found
