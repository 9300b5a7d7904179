"""A daemon to which everything happens that its figures tell of, in seconds, while Prometheus looks."""

import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daemons import Daemon
from helpers import make_wheel, wait_until
from prometheus_server import Prometheus
from raylet import Env, HttpError, Raylet
from sources import FileServer, Slow, http_of, make_zip

from ray_envd.agent.client import Client, RemoteError

#: More than half of the budget, so that two do not fit.
_LARGE = 11_000_000


class Life:
    """A small daemon, two raylets, and Prometheus.

    Attributes:
        noon: unix seconds, when all has happened but the end.
    """

    def __init__(self, place: Path, rules: Path) -> None:
        self.place, self.noon = place, 0.0
        self._warm = place / "warm.json"
        options = ("--max-bytes", "20MB", "--build-parallelism", "1", "--min-unused-age", "0")
        self.daemon = Daemon.at(place, *options, "--warm-file", str(self._warm))
        self.prometheus = Prometheus(place, rules)
        self.one, self.two = (Raylet(place / name, self.daemon.socket, {}) for name in ("one", "two"))

    def close(self) -> None:
        """Ends all."""
        self.one.close()
        self.two.close()
        self.daemon.stop()
        self.prometheus.stop()

    def run(self) -> None:
        """Everything."""
        self._wants()
        self.daemon.start()
        self.prometheus.start(http_of(self.daemon).removeprefix("http://"))
        for raylet in (self.one, self.two):
            raylet.folder.mkdir()
            raylet.start()
        self._wants({"env_vars": {"WARM": "1"}})
        make_wheel(self.place / "wheels", "tiny", "1.0", source="answer = 42\n")
        self._two_large_archives()
        self._an_environment()
        self._failures()
        self._saw('ray_envd_warm_envs{state="ready"} == 1')
        self._saw("up == 1")
        self.noon = time.time()
        self._a_drain()

    def _saw(self, expression: str) -> None:
        """Waits until Prometheus has seen something."""
        wait_until(lambda: self.prometheus.query(expression), 20, expression)

    def _wants(self, *envs: Env) -> None:
        """Writes the warm file."""
        self._warm.write_text(json.dumps({"envs": [{"runtime_env": env} for env in envs]}))

    def _pip(self, package: str) -> Env:
        options = ["--no-index", "--find-links", str(self.place / "wheels")]
        return {"pip": {"packages": [package], "pip_install_options": options}}

    def _two_large_archives(self) -> None:
        """The second waits for its turn, then for room; it is refused while the first is in use."""
        web = FileServer()
        web.halt = 1_000_000
        web.gate.clear()
        first, second = (
            {"working_dir": web.add(make_zip(self.place / f"{name}.zip", {"x": os.urandom(_LARGE)}))}
            for name in "ab"
        )
        with contextlib.closing(web), ThreadPoolExecutor(2) as pool:
            one = pool.submit(self.one.create, first)
            self._saw("max_over_time(ray_envd_reserved_bytes[5m]) > 0")
            two = pool.submit(self.two.create, second)
            self._saw("max_over_time(ray_envd_builds_waiting[5m]) > 0")
            self._saw("max_over_time(ray_envd_builds_waiting_for_room[5m]) > 0")
            web.gate.set()
            assert one.result().ok, one.result().error
            assert "are needed" in two.result().error
            self.one.delete(first)
            self.one.prepared(second)
            self.one.delete(second)

    def _an_environment(self) -> None:
        """Built, hit twice over, damaged and built anew, collected."""
        env = self._pip("tiny")
        for raylet in (self.one, self.one, self.two):
            raylet.prepared(env)
        self._saw('ray_envd_exclusive_bytes{kind="python"} > 0')
        (configuration,) = self.daemon.store.glob("users/*/objects-v1/python/*/venv/pyvenv.cfg")
        configuration.chmod(0o644)
        configuration.write_text(configuration.read_text() + "\n")

        def found() -> bool:
            self.one.prepared(env)
            return bool(self.prometheus.query('ray_envd_damaged_total{kind="python"} > 0'))

        wait_until(found, 20, "the damage to be seen")
        for raylet in (self.one, self.two):
            while raylet.delete(env):
                pass
        with Client(self.daemon.socket) as client:
            client.gc(target_bytes=0)
            self._saw('ray_envd_evictions_total{kind="python", reason="request"} > 0')

    def _slow(self, name: str) -> Slow:
        (self.place / name).mkdir()
        return Slow(self.place / name, 600)

    def _failures(self) -> None:
        """A package and an object that do not exist, a build that takes too long, and an unknown call."""
        self.one.refused(self._pip("nowhere"))
        self.one.refused(self._slow("late").env, timeout=2)
        with contextlib.suppress(HttpError):
            self.one.post("/nowhere", b"")
        with Client(self.daemon.socket) as client, contextlib.suppress(RemoteError):
            client.remove("python/ffffffff")
        self._saw('ray_envd_builds_total{outcome="cancelled"} > 0')
        self._saw('ray_envd_rpc_seconds_count{method="other", code="404"} > 0')

    def _a_drain(self) -> None:
        """The daemon takes no more work, and waits for a build that is under way."""
        slow = self._slow("last")
        with ThreadPoolExecutor(2) as pool, Client(self.daemon.socket) as client:
            pool.submit(self.one.create, slow.env)
            wait_until(lambda: slow.begun, 20, "the build")
            drained = pool.submit(client.drain, 3)
            self._saw("min_over_time(ray_envd_ready[1m]) == 0")
            assert drained.result() == 1
            self.one.close()
