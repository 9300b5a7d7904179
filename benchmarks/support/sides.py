"""The two sides of a comparison: a node of ray-envd and one of stock Ray, on this machine, at once."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agents import Agent
from daemons import Daemon
from processes import NodeError, marked, wait_until
from rays import RayNode, install_ray
from script import RAY, console
from stores import evict

from ray_envd.agent.client import Client


class Sides:
    """A daemon with an attached one-node cluster, and a one-node cluster as Ray comes.

    Both are of the same version, from installations of their own. Stock keeps no pip environment that is not
    in use, so that each is new, and may use pip's cache, which is this comparison's own.

    Attributes:
        environment: variables of both clusters.
    """

    def __init__(self, folder: Path, installs: Path, environment: Mapping[str, str] | None = None) -> None:
        console.print(f"[dim]installing Ray {RAY} twice[/]")
        self.folder = folder
        for name in ("e", "s"):
            (folder / name).mkdir()
        self.daemon = Daemon.at(folder / "e")
        common = dict(environment or {})
        self.ours = RayNode(
            install_ray(RAY, installs / "e"),
            folder / "e" / "r",
            {**common, "RAY_ENVD_SOCKET": str(self.daemon.socket)},
        )
        own = {"RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB": "0", "PIP_CACHE_DIR": str(folder / "s" / "pip")}
        self.stock = RayNode(install_ray(RAY, installs / "s"), folder / "s" / "r", {**common, **own})

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything started, and ended.

        Raises:
            NodeError: processes of the clusters were left behind.
        """
        try:
            attach = [sys.executable, "-m", "ray_envd", "attach", "--supervised", "--python"]
            subprocess.run([*attach, self.ours.python], check=True, stdout=subprocess.DEVNULL)
            self.daemon.start()
            self.ours.start()
            self.stock.start()
            yield
        finally:
            self.ours.stop()
            self.stock.stop()
            self.daemon.stop()
        if left := [pid for node in (self.ours, self.stock) for pid in marked(node.mark)]:
            raise NodeError(f"left behind: {left}")

    def attached(self) -> Agent:
        """The port of ray-envd's raylet, once the daemon serves it."""
        wait_until(lambda: self._sessions() == 1, 20, "the link's return")
        return Agent(self.ours)

    def _sessions(self) -> int:
        with Client(self.daemon.socket) as client:
            return sum(session.connected for session in client.list().sessions)

    def evict(self) -> None:
        """Removes ray-envd's Python environments; their interpreter's metadata and uv's cache stay."""
        evict(self.daemon, 10)

    def stock_pips(self) -> list[Path]:
        """The pip environments that stock has now."""
        place = self.stock.session / "runtime_resources" / "pip"
        return [path for path in place.glob("*") if path.is_dir()]

    def stock_evicted(self) -> None:
        """Waits until stock has removed its pip environments, of which nobody may be a user."""
        wait_until(lambda: not self.stock_pips(), 30, "the removal of stock's environment")


def pip_env(package: str) -> dict[str, Any]:
    """A runtime env of one package that both sides may take from a cache.

    With stock's own options (``--no-cache-dir``) it would be downloaded anew for each env.
    """
    options = ["--disable-pip-version-check"]
    return {"pip": {"packages": [package], "pip_check": False, "pip_install_options": options}}
