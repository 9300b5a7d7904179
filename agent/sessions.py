"""Who is attached: one session per raylet, with the settings of its own cluster.

A session is known by an id that the raylet's process fixes (boot, pid, start time), so a link that says
hello again to a new daemon finds its references. What came with the hello, the raylet's environment and
the cluster's token among it, lives in memory only and is never logged.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ray_envd.agent.redaction import secrets_of_environment
from ray_envd.cache.owner import Owner

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What the raylet's environment says about its runtime envs; names and defaults are stock's.

    Attributes:
        retry_times: attempts at a transient failure, at least one.
        retry_interval: seconds before the second attempt.
        failure_ttl: seconds for which a lasting failure is remembered.
        cache_bytes: field -> bytes of unreferenced objects that this cluster lets stay; only fields whose
            variable is set.
        plugins: ``RAY_RUNTIME_ENV_PLUGINS`` names plug-ins.
    """

    retry_times: int = 3
    retry_interval: float = 1.0
    failure_ttl: float = 600.0
    cache_bytes: Mapping[str, int] = field(default_factory=dict)
    plugins: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "SessionSettings":
        """Reads the variables; one that is not a number is as good as unset, as it is for Ray's own."""
        sizes = {}
        for name in ("working_dir", "py_modules", "pip", "uv"):
            size = _number(environment, f"RAY_RUNTIME_ENV_{name.upper()}_CACHE_SIZE_GB", -1)
            if size >= 0:
                sizes[name] = int(size * _GIB)
        defaults = cls()
        interval = _number(environment, "RUNTIME_ENV_RETRY_INTERVAL_MS", defaults.retry_interval * 1000)
        ttl = _number(environment, "BAD_RUNTIME_ENV_CACHE_TTL_SECONDS", defaults.failure_ttl)
        return cls(
            retry_times=max(1, int(_number(environment, "RUNTIME_ENV_RETRY_TIMES", defaults.retry_times))),
            retry_interval=max(0.0, interval / 1000),
            failure_ttl=max(0.0, ttl),
            cache_bytes=sizes,
            plugins=bool(environment.get("RAY_RUNTIME_ENV_PLUGINS")),
        )


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environment[name])
    except (KeyError, ValueError):
        return default


@dataclass
class Session:
    """One raylet, or another caller that stands for one.

    Attributes:
        id: stable for the raylet's life.
        owner: whose trees, builds and logs its envs are (the peer's credentials, not its word).
        python: the interpreter that runs the workers.
        environment: the raylet's; installers and downloads see it.
        runtime_env_dir: where trees of working_dir and py_modules go.
        log_dir: where set-up logs go; None for callers without a cluster.
        temp_dir: Ray's, where the folders of its sessions are; empty for callers without a cluster.
        token: the cluster's bearer token, if requests must carry one.
        auth: whether requests must carry the token.
        connected: whether a link or caller is attached now.
        turn: as whose its builds wait for their turn; empty: as its own.
    """

    id: str
    owner: Owner
    python: str
    environment: Mapping[str, str]
    runtime_env_dir: Path
    log_dir: Path | None = None
    session_dir: str = ""
    temp_dir: str = ""
    gcs_address: str = ""
    node_ip: str = ""
    ray_version: str = ""
    token: str | None = None
    auth: bool = False
    raylet_pid: int = 0
    raylet_start: int = 0
    rotate_bytes: int = 512 * 1024**2
    rotate_count: int = 5
    started: float = field(default_factory=time.time)
    connected: bool = True
    settings: SessionSettings = field(default_factory=SessionSettings)
    turn: str = ""

    @property
    def queue(self) -> str:
        """The name under which its builds wait, see ``Slots``."""
        return self.turn or self.id

    @cached_property
    def secrets(self) -> frozenset[str]:
        """What of the raylet's environment nobody may read: builds and downloads see it, and may print it."""
        return frozenset(secrets_of_environment(self.environment) | ({self.token} if self.token else set()))

    @property
    def node_prefix(self) -> str:
        """How stock begins an error message, so that a user knows the node."""
        return f"[Node {self.node_ip}] " if self.node_ip else ""

    def facts(self) -> dict[str, Any]:
        """What may be written to disk and shown to people: no environment, no token."""
        return {
            "owner_uid": self.owner.uid,
            "owner_gid": self.owner.gid,
            "python": self.python,
            "session_dir": self.session_dir,
            "runtime_env_dir": str(self.runtime_env_dir),
            "ray_version": self.ray_version,
            "raylet_pid": self.raylet_pid,
            "raylet_start": self.raylet_start,
            # A raylet in another pid namespace cannot be seen, so its absence says nothing.
            "raylet_visible": process_start(self.raylet_pid) == self.raylet_start != 0,
            "started": self.started,
        }


def process_start(pid: int) -> int:
    """The start time of a process in clock ticks after boot (proc(5), field 22).

    0 if there is none, or if it has ended and nobody has waited for it: that may never happen in a container.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The command in parentheses may hold spaces and parentheses itself; it ends at the last one.
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def raylet_is_gone(facts: Mapping[str, Any]) -> bool:
    """Whether the raylet of a recorded session could be seen once and is not there any more."""
    pid, start = int(facts.get("raylet_pid") or 0), int(facts.get("raylet_start") or 0)
    return bool(facts.get("raylet_visible")) and process_start(pid) != start
