"""The soak's cluster: a head whose raylet lives, and more raylets that are killed and come back."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import NodeError, end_marked, wait_until
from rays import ROOT, MoreNode, RayNode, install_ray, link_pids
from soak_place import Place

from ray_envd.agent.attach import attach

RAY = "2.60.0"
_CPUS = 3  # of each node: so many workers of it may start at once
#: A raylet that was killed is to be known as dead soon; one that is slow is to live. No workers in advance.
_RAY = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_prestart_worker_first_driver": "0",
    # Tools are killed faster than a long build ends: Ray's three attempts are not enough for all.
    "RUNTIME_ENV_RETRY_TIMES": "8",
}


@dataclass
class Cluster:
    """A head, whose raylet lives, and more raylets, which are killed and come back."""

    place: Place
    installs: Path
    more_nodes: int
    note: Callable[[str], None]
    head: RayNode = field(init=False)
    more: list[MoreNode] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Brings everything up, and looks after it from now on."""
        python = install_ray(RAY, self.installs / "ray")
        attach(python, socket=None, daemon=[str(self.place.script)])
        environment = {"RAY_ENVD_SOCKET": str(self.place.socket), **_RAY}
        self._begin(self._look_after_daemon)
        self.place.wait_served()
        self.head = RayNode(python, self.place.folder / "h", environment, cpus=_CPUS).start()
        for number in range(self.more_nodes):
            node = MoreNode(
                python,
                self.place.folder / f"w{number}",
                environment,
                token=self.head.token,
                head=self.head,
                cpus=_CPUS,
            )
            self.more.append(node)
            self._start(node)
            self._begin(self._look_after_node, node)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _look_after_daemon(self) -> None:
        while not self._stopping.wait(0.1):
            self.place.look_after()

    def _look_after_node(self, node: MoreNode) -> None:
        while not self._stopping.wait(0.5):
            process = node.process
            if process is None or process.poll() is not None or not node.pids("raylet"):
                node.stop()
                self._start(node)

    def _start(self, node: MoreNode) -> None:
        try:
            node.start()
        except NodeError as error:
            # What is so killed while it starts is started again; how often is in the report.
            self.note(f"raylet did not start: {error}")

    def raylets(self, nodes: list[RayNode] | None = None) -> Iterator[tuple[RayNode, int]]:
        """The living raylets of some nodes, by default of those that may be killed."""
        for node in self.more if nodes is None else nodes:
            for pid in node.pids("raylet"):
                yield node, pid

    @property
    def nodes(self) -> list[RayNode]:
        """All of them."""
        return [self.head, *self.more]

    def links(self, node: RayNode) -> list[int]:
        """A node's link."""
        return link_pids(node)

    def restore(self, deadline: float = 90.0) -> None:
        """Waits until all raylets are up again."""
        wait_until(lambda: len(list(self.raylets(self.nodes))) == len(self.nodes), deadline, "all raylets")

    def stop_nodes(self) -> None:
        """Ends the cluster; the daemon stays and is looked after."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        self._threads.clear()
        self._stopping.clear()
        self._begin(self._look_after_daemon)
        for node in [*self.more, *([self.head] if hasattr(self, "head") else [])]:
            node.stop()

    def close(self) -> None:
        """Ends everything, whatever state it is in."""
        with contextlib.suppress(TimeoutError):
            self.stop_nodes()
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        # All of it names the folder: daemons, their tools, links.
        end_marked(str(self.place.folder))


def default_installs(pid: int) -> Path:
    """Where Ray is installed for one run: on the file system of uv's cache."""
    return ROOT / ".work" / f"soak-{pid}"
