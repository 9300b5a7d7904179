"""A node for tests of the link: an attached Ray's folder, a session's folder, and the processes in them."""

import json
import os
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from link_folders import put_link, put_settings
from processes import end_marked

from ray_envd.agent.link.script import STOCK_NAME

LINK_DAEMON = Path(__file__).with_name("link_daemon.py")
PATIENCE = 15.0
T = TypeVar("T")

#: Stands in for Ray's own agent: says what it was started with, and serves on the port that it was given.
STOCK = """
import json, os, socket, sys
port = int([a for a in sys.argv if a.startswith("--runtime-env-agent-port=")][-1].partition("=")[2])
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", port))
server.listen()
aside = os.environ["TEST_FOLDER"] + "/stock.aside"
with open(aside, "w") as file:
    json.dump({"argv": sys.argv, "pid": os.getpid(), "flags": sys.flags.dont_write_bytecode}, file)
os.replace(aside, os.environ["TEST_FOLDER"] + "/stock.json")
while True:
    connection, _ = server.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nstock")
    connection.close()
"""

#: Stands in for the raylet: a subreaper, as some are, that starts the link as its child.
RAYLET = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.environ["RAY_RAYLET_PID"] = str(os.getpid())
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def wait_for(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Waits until the condition is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return result


def ended(pid: int, seconds: float) -> bool:
    """Whether a process that need not be our child ends in that time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


class Node:
    """A node's folders with an attached Ray in it, and the processes that a test starts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = folder / "agent"
        self.session = folder / "session"
        self.control = folder / "d.sock"
        for path in (self.agent, self.session / "logs"):
            path.mkdir(parents=True)
        (self.agent / STOCK_NAME).write_text(STOCK)
        self.settings: dict[str, Any] = {
            "version": "1",
            "socket": f"{self.control}.link",
            "daemon": None,
            "ray_version": "2.60.0",
            "start_seconds": PATIENCE,
            "restart_seconds": PATIENCE,
        }
        self.environment: dict[str, str] = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAY_RAYLET_PID": str(os.getpid()),
            "RAY_ENVD_TEST_FOLDER": str(folder),
            "TEST_FOLDER": str(folder),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.install(sys.executable)

    def install(self, python: str) -> None:
        """The link with bytecode for that interpreter."""
        put_link(self.agent, self.settings, Path(python))

    @property
    def package(self) -> Path:
        """The folder of the link's modules."""
        (folder,) = self.agent.glob("ray_envd_link_*")
        return folder

    def attach(self, **settings: Any) -> None:
        self.settings.update(settings)
        put_settings(self.agent, self.settings)

    def flags(self, port: int = 0) -> list[str]:
        """The words of a raylet of 2.60."""
        return [
            "--node-id=abc",
            "--node-ip-address=127.0.0.1",
            f"--runtime-env-agent-port={port}",
            f"--session-dir={self.session}",
            "--gcs-address=127.0.0.1:6379",
            "--cluster-id-hex=00ff",
            f"--runtime-env-dir={self.session}/runtime_resources",
            "--logging-rotate-bytes=1000",
            "--logging-rotate-backup-count=3",
            f"--log-dir={self.session}/logs",
            f"--temp-dir={self.folder}",
        ]

    def run(self, argv: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        options.setdefault("env", self.environment)
        process = subprocess.Popen(argv, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def argv(self, flags: list[str] | None = None, python: str = sys.executable) -> list[str]:
        return [python, "-u", str(self.agent / "main.py"), *(self.flags() if flags is None else flags)]

    def link(self, flags: list[str] | None = None, **options: Any) -> "subprocess.Popen[bytes]":
        options.setdefault("stderr", subprocess.DEVNULL)
        return self.run(self.argv(flags), **options)

    def raylet(self) -> tuple["subprocess.Popen[bytes]", int]:
        """A raylet and the pid of its link."""
        raylet = self.run([sys.executable, "-c", RAYLET, *self.argv()], stdout=subprocess.PIPE)
        assert raylet.stdout is not None
        return raylet, int(raylet.stdout.readline())

    def daemon(self, **told: str) -> "subprocess.Popen[bytes]":
        environment = {**self.environment, "RAY_ENVD_SOCKET": str(self.control)}
        environment.update({f"RAY_ENVD_TEST_{name.upper()}": value for name, value in told.items()})
        return self.run([sys.executable, str(LINK_DAEMON)], env=environment)

    def found(self, pattern: str) -> list[Any]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(pattern))]

    def hello(self, count: int = 1) -> dict[str, Any]:
        """The last of so many hellos."""
        wait_for(lambda: len(list(self.folder.glob("hello-*.json"))) >= count, f"{count} hellos")
        path = max(self.folder.glob("hello-*.json"), key=lambda p: p.stat().st_mtime_ns)
        return dict(json.loads(path.read_text()))

    def port(self) -> int:
        path = self.session / "runtime_env_agent_port_abc"
        wait_for(path.exists, "the port file")
        return int(path.read_text())

    def stock(self) -> dict[str, Any]:
        wait_for((self.folder / "stock.json").exists, "the stock agent")
        return dict(json.loads((self.folder / "stock.json").read_text()))

    def log(self) -> str:
        path = self.session / "logs" / "runtime_env_agent.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            if process.stderr is not None:
                process.stderr.close()
        # What a link started is not our child; its environment names the folder.
        end_marked(str(self.folder))


def get(port: int) -> str:
    """What answers on the port; waits for it as a raylet's request does."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        return str(answer.read().decode())
