"""A real `ray-envd serve` as a process, for tests, demo and benchmarks."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import NodeError, clean_environment, threads, wait_until

from ray_envd.agent.pb import admin_pb2, admin_pb2_grpc


@dataclass
class Daemon:
    """A `ray-envd serve` process on a store of its own."""

    store: Path
    socket: Path
    log: Path
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    python: str | Path = sys.executable

    @classmethod
    def at(cls, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> "Daemon":
        """A daemon that keeps everything in a folder; not started yet."""
        return cls(folder / "store", folder / "d.sock", folder / "daemon.log", arguments, environment or {})

    @property
    def command(self) -> list[str]:
        """Its argv, as a link would start it too."""
        fixed = ["--store", str(self.store), "--socket", str(self.socket), "--http", "127.0.0.1:0"]
        return [str(self.python), "-m", "ray_envd", "serve", *fixed, *self.arguments]

    @property
    def pid(self) -> int:
        """Its process id; only while it is started."""
        if self.process is None:
            raise NodeError("the daemon is not started")
        return self.process.pid

    def start(self, deadline: float = 20.0) -> "Daemon":
        """Starts it and returns when it serves.

        Raises:
            NodeError: it ended or did not serve in time; with its log.
        """
        process = self.spawn()
        try:
            wait_until(lambda: process.poll() is not None or serves(self.socket), deadline, "a daemon")
        except TimeoutError as error:
            found = f"{error}; health: {health(self.socket)}; its threads:\n{threads(process.pid)}"
            self.kill()
            raise NodeError(f"{found}\n{self.tail()}") from error
        if process.poll() is not None:
            raise NodeError(f"the daemon ended with {process.returncode}\n{self.tail()}")
        return self

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts it and returns at once."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(**self.environment),
                start_new_session=True,
            )
        return self.process

    def stop(self, deadline: float = 40.0) -> int:
        """Ends it by SIGTERM and returns its exit code; kills it after the deadline."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.terminate()
        try:
            return process.wait(deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        """A stub of its AdminService."""
        with admin_of(self.socket) as stub:
            yield stub

    def stats(self) -> Any:
        """Its StatsReply."""
        return stats_of(self.socket)

    @property
    def http(self) -> str:
        """Where its log says that it serves metrics; of the last start."""
        found: list[str] = re.findall(r"metrics and health on (http://[0-9.:]+)", self.log.read_text())
        if not found:
            raise NodeError("the daemon serves no metrics")
        return found[-1]

    def tail(self, lines: int = 60) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else "(no log)"
        return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def admin_of(path: Path) -> Iterator[Any]:
    """A stub of the AdminService of the daemon on this socket, whoever started it."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def stats_of(path: Path) -> Any:
    """The StatsReply of the daemon on this socket."""
    with admin_of(path) as stub:
        return stub.Stats(admin_pb2.StatsRequest(), timeout=20, wait_for_ready=True)


def serves(path: Path) -> bool:
    """Whether a daemon on this socket says by gRPC's health service that it serves."""
    return health(path) == "SERVING"


def health(path: Path) -> str:
    """What gRPC's health service of the daemon on this socket says, or why it says nothing."""
    if not path.exists():
        return "no socket"
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError as error:
            return str(error)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
