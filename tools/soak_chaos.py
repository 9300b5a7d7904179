"""What goes wrong during a soak."""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processes import kill
from soak_cluster import Cluster
from soak_place import Place

#: How often each is struck.
TARGETS = {"daemon": 34, "tool": 38, "clock": 14, "raylet": 7, "link": 7}
PAUSE = (2.0, 5.0)  # seconds between two strikes
_SUPERVISOR_SECONDS = (0.0, 3.0)  # before a supervisor starts the next daemon
_BY_LINKS = 0.4  # of the killed daemons: the links start the next one
_TOOL_SECONDS = 2.0  # to wait for a tool to kill
#: Seconds to which the daemon's clock is set, against the true time.
_CLOCKS = (0, 0, -40, 90, -3600, 7200, -9 * 3600, 26 * 3600, -30 * 86400, 400 * 86400)


@dataclass(frozen=True)
class Strike:
    """One thing that went wrong.

    Attributes:
        at: unix seconds.
        target: a key of :data:`TARGETS`.
        detail: which process, or how far.
        raylet: the pid of the raylet that does not outlive it; 0 if none.
        node: Ray's id of that raylet's node.
    """

    at: float
    target: str
    detail: str
    raylet: int = 0
    node: str = ""


@dataclass
class Chaos:
    """Strikes, one after another, drawn from a seed."""

    cluster: Cluster
    chance: random.Random
    targets: Mapping[str, int] = field(default_factory=lambda: TARGETS)
    strikes: list[Strike] = field(default_factory=list)

    @property
    def _place(self) -> Place:
        return self.cluster.place

    def run(self, seconds: float, on_strike: Callable[[Strike], None]) -> None:
        """Strikes every few seconds for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(self.chance.uniform(*PAUSE), max(0.0, end - time.monotonic())))
            strike = self._strike()
            if strike is not None:
                self.strikes.append(strike)
                on_strike(strike)

    def calm(self) -> None:
        """The clock is right again, and a supervisor looks after the daemon."""
        self._place.move_clock(0)
        self._place.supervise()

    def _strike(self) -> Strike | None:
        (target,) = self.chance.choices(list(self.targets), list(self.targets.values()))
        action: Callable[[], Strike | None] = getattr(self, f"_strike_{target}")
        return action()

    def _strike_daemon(self) -> Strike | None:
        pid = self._place.daemon_pid()
        if pid is None:
            return None
        after = self.chance.uniform(*_SUPERVISOR_SECONDS)
        if self.chance.random() < _BY_LINKS:
            who = "a link"
            self._place.leave_to_links()
        else:
            who = f"the supervisor after {after:.1f} s"
            self._place.supervise(after)
        kill([pid])
        return Strike(time.time(), "daemon", f"{pid}; the next by {who}")

    def _strike_tool(self) -> Strike | None:
        end = time.monotonic() + _TOOL_SECONDS
        while not (pids := self._place.tools()):
            if time.monotonic() > end:
                return None
            time.sleep(0.02)
        pid = self.chance.choice(pids)
        name = _program(pid)
        kill([pid])
        return Strike(time.time(), "tool", f"{name} {pid}")

    def _strike_clock(self) -> Strike:
        seconds = self.chance.choice(_CLOCKS)
        self._place.move_clock(seconds)
        return Strike(time.time(), "clock", f"{seconds:+d} s")

    def _strike_raylet(self) -> Strike | None:
        return self._end_raylet("raylet", lambda raylet, _link: raylet)

    def _strike_link(self) -> Strike | None:
        return self._end_raylet("link", lambda _raylet, link: link)

    def _end_raylet(self, target: str, choose: Callable[[int, int], int]) -> Strike | None:
        """Kills a raylet or its link; neither outlives the other. One without a link is still starting."""
        found = [(pid, link) for node, pid in self.cluster.raylets() for link in self.cluster.links(node)]
        if not found:
            return None
        raylet, link = self.chance.choice(found)
        node = _node_id(link)
        at, pid = time.time(), choose(raylet, link)
        kill([pid])
        return Strike(at, target, f"{pid} of raylet {raylet}", raylet, node)


def _node_id(link: int) -> str:
    """Ray's id of the node, which its raylet tells the link."""
    words = Path(f"/proc/{link}/cmdline").read_bytes().decode().split("\0")
    return next((word.partition("=")[2] for word in words if word.startswith("--node-id=")), "")


def _program(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "?"
    return " ".join(Path(word).name if word.startswith("/") else word for word in words[:3])[:60]


def summary(strikes: Sequence[Strike]) -> Counter[str]:
    """How often each target was struck."""
    return Counter(strike.target for strike in strikes)
