"""What is watched while a soak goes on."""

import contextlib
import os
import re
import statistics
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from daemons import admin_of, stats_of
from processes import alive
from rays import RayNode
from soak_cluster import Cluster
from soak_place import environment_of

from ray_envd.agent.pb import admin_pb2

#: The line by which a session's own layer has a shared environment below it.
_BELOW = re.compile(r"addsitedir\('([^']+)'\)")

#: In the log of a worker (Ray's ``core_worker_shutdown_executor.cc``), just before its raylet hears it.
_LEAVES = "Sending disconnect message to the local raylet"


@dataclass
class Watch:
    """Looks at daemon and workers once a second.

    Attributes:
        last: of each daemon, the last figures that it gave.
        most_stored: most bytes of objects and uv's cache at any look.
        most_resident: most bytes of memory of any daemon.
        environments: how many looks at a worker's environment found it.
        compared: how many looks compared a raylet's workers with its references.
        problems: what must never be.
    """

    cluster: Cluster
    last: dict[int, Any] = field(default_factory=dict)
    most_stored: int = 0
    most_resident: int = 0
    environments: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)
    _loads: list[float] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks from now on."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def load(self) -> float:
        """The machine's load average, its own work and others', as a mean over the looks."""
        return statistics.fmean(self._loads or [0.0])

    def total(self, name: str) -> int:
        """A counter over all daemons, each as last seen before its end."""
        return sum(int(getattr(stats, name)) for stats in self.last.values())

    def _run(self) -> None:
        while not self._stopping.wait(1.0):
            self._loads.append(os.getloadavg()[0])
            workers = {node.mark: workers_of(node) for node in self.cluster.nodes}
            with contextlib.suppress(grpc.RpcError):
                self._look_at_daemon()
                self._compare(workers)
            for node in self.cluster.nodes:
                self._look_at_environments(node, workers[node.mark])

    def _look_at_daemon(self) -> None:
        if self.cluster.place.daemon_pid() is None:
            return
        stats = stats_of(self.cluster.place.socket)
        self.last[stats.pid] = stats
        self.most_stored = max(self.most_stored, stats.object_bytes + stats.uv_cache_bytes)
        self.most_resident = max(self.most_resident, stats.resident_bytes)

    def _compare(self, before: dict[str, list[int]]) -> None:
        """Each worker has a reference from before its start until it leaves: no raylet has fewer of them."""
        counted = references(self.cluster)
        for node in self.cluster.nodes:
            raylets = node.pids("raylet")
            if len(raylets) != 1 or raylets[0] not in counted:
                continue
            # Asked after the references were counted: who has not left by now had not left then.
            still = [pid for pid in before[node.mark] if alive(pid) and not has_left(self.cluster, pid)]
            self.compared += 1
            if len(still) > counted[raylets[0]] and alive(raylets[0]):
                self.problems.append(
                    f"raylet {raylets[0]} has workers {still} and {counted[raylets[0]]} references"
                )

    def _look_at_environments(self, node: RayNode, workers: list[int]) -> None:
        """What a worker of a living raylet runs in must be there, whatever is collected."""
        raylets = node.pids("raylet")
        for pid in workers:
            places = environments_of(pid)
            gone = [place for place in places if not place.exists()]
            self.environments += bool(places)
            # Asked last: a raylet that has died meanwhile has no claim to anything.
            if gone and alive(pid) and raylets and all(map(alive, raylets)):
                self.problems.append(f"worker {pid} lost {gone[0]}")


def workers_of(node: RayNode) -> list[int]:
    """The workers of a node that run in an env of the soak's."""
    return [pid for pid in node.pids("default_worker.py") if "SOAK_JOB" in environment_of(pid)]


def has_left(cluster: Cluster, worker: int) -> bool:
    """Whether a worker has told its raylet that it leaves, which gives the reference back then.

    Its process may go on for seconds: two were seen on a busy machine.
    """
    # The workers of all nodes of one machine have their logs with the head's.
    logs = cluster.head.folder.glob(f"session_2*/logs/python-core-worker-*_{worker}.log")
    return any(_LEAVES in path.read_text(errors="replace") for path in logs)


def environments_of(pid: int) -> list[Path]:
    """What a worker needs to import from: its own layer, and the shared environments below it."""
    layer = environment_of(pid).get("VIRTUAL_ENV")
    if not layer:
        return []
    found = [Path(layer)]
    for path in Path(layer).glob("lib/python*/site-packages/*.pth"):
        with contextlib.suppress(OSError):
            found += map(Path, _BELOW.findall(path.read_text(errors="replace")))
    return found


def references(cluster: Cluster) -> dict[int, int]:
    """How many references each raylet has, by its pid."""
    with admin_of(cluster.place.socket) as admin:
        sessions = admin.List(admin_pb2.ListRequest(), timeout=20).sessions
    return {each.raylet_pid: each.references for each in sessions if each.raylet_pid}
