"""Real one-node Ray clusters as processes, for tests, demo and benchmarks.

Folders must be short: the names of Ray's sockets may have 107 bytes.
"""

import contextlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import MARK, NodeError, clean_environment, end_marked, free_ports, marked, wait_until

ROOT = Path(__file__).resolve().parent.parent
#: The driver that runs pieces of code in runtime envs; see there for what it reads.
ASK = ROOT / "tools" / "ask_driver.py"
_RESULT = "RESULT "


def install_ray(version: str, target: Path) -> Path:
    """A Ray installation of one's own (seconds: files are linked from uv's cache); returns its Python."""
    command = [ROOT / "tools" / "ray.sh", version, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"cannot install Ray {version}:\n{done.stdout}{done.stderr}")
    return target / "bin" / "python"


@dataclass
class RayNode:
    """A one-node cluster of its own: ports, temporary folder, token and processes are nobody else's.

    Attributes:
        identity: arguments of ``subprocess`` where it and its drivers run as another user; root only.
    """

    python: Path
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    dashboard: bool = False
    auth: bool = True
    cpus: int = 8
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    mark: str = field(default_factory=lambda: f"node-{secrets.token_hex(6)}")
    process: subprocess.Popen[bytes] | None = None
    ports: list[int] = field(default_factory=list)
    starts: int = 0
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The GCS address."""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def client_address(self) -> str:
        """Ray Client's address."""
        return f"ray://127.0.0.1:{self.ports[1]}"

    @property
    def dashboard_address(self) -> str:
        """The dashboard's and the job server's address."""
        return f"http://127.0.0.1:{self.ports[2]}"

    @property
    def session(self) -> Path:
        """Ray's session folder."""
        return (self.folder / "session_latest").resolve()

    def variables(self) -> dict[str, str]:
        """The environment of the cluster and of its drivers."""
        path = f"{self.python.parent}:{os.environ.get('PATH', '')}"
        own = {MARK: self.mark, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        if self.auth:
            # A file of its own: Ray would write a token into the user's home.
            own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return clean_environment(**own, **self.environment)

    def start(self, deadline: float = 60.0) -> "RayNode":
        """Starts the cluster and returns when drivers may come.

        Raises:
            NodeError: it did not come up; with what `ray start` printed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(self.token)
        for path in (self.folder, token) if self.identity else ():
            os.chown(path, self.identity["user"], self.identity["group"])
        try:
            return self._start(deadline)
        except NodeError:
            # On a busy machine Ray's dashboard misses a deadline of its own; a port may be taken.
            return self._start(deadline)

    def _start(self, deadline: float) -> "RayNode":
        self.starts += 1
        self.ports = free_ports(5)
        log = self.folder / f"start-{self.starts}.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.variables(),
                cwd=self.folder,
                start_new_session=True,
                **self.identity,
            )
        self._wait_started(self.process, log, deadline)
        return self

    def _wait_started(self, process: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
        def up() -> bool:
            return process.poll() is not None or "will now block" in log.read_text(errors="replace")

        try:
            wait_until(up, deadline, "a started Ray node")
        except TimeoutError as error:
            problem = str(error)
        else:
            if process.poll() is None:
                return
            problem = f"ray start ended with {process.returncode}"
        self.stop()
        raise NodeError(f"{problem}\n{log.read_text(errors='replace')[-4000:]}")

    def _command(self) -> list[str]:
        # Blocking: the command stays, watches its children, and ends them when it is told to end.
        command = [str(self.python), "-m", "ray.scripts.scripts", "start", "--block"]
        options = {**self._role(), **self._options()}
        return [*command, *(word for option in options.items() for word in option if word)]

    def _role(self) -> dict[str, str]:
        """What makes it a cluster."""
        gcs, client, dashboard, *_ = map(str, self.ports)
        return {
            "--head": "",
            "--port": gcs,
            "--ray-client-server-port": client,
            "--dashboard-port": dashboard,
            "--include-dashboard": str(self.dashboard).lower(),
        }

    def _options(self) -> dict[str, str]:
        *_, listen, metrics = map(str, self.ports)
        return {
            "--node-ip-address": "127.0.0.1",
            "--dashboard-agent-listen-port": listen,
            "--metrics-export-port": metrics,
            "--temp-dir": str(self.folder),
            # Any free ports: two clusters of this machine must not reach for the same range.
            "--min-worker-port": "0",
            "--max-worker-port": "0",
            "--num-cpus": str(self.cpus),
            "--object-store-memory": "80000000",
        }

    def pids(self, name: str) -> list[int]:
        """The cluster's processes whose program's name or first argument's end is ``name``."""
        return [pid for pid in marked(self.mark) if _is_called(pid, name)]

    def raylet_pid(self) -> int:
        """The raylet's process id."""
        (pid,) = self.pids("raylet")
        return pid

    def stop(self, spare: Iterable[int] = ()) -> None:
        """Ends the cluster: politely, then by force whatever carries its mark but ``spare``."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(6)
        end_marked(self.mark, spare)
        if process is not None:
            process.wait()

    # drivers

    def spawn(self, arguments: Sequence[str | Path], **changes: Any) -> subprocess.Popen[str]:
        """Starts this Ray's Python as a driver, its output in one pipe unless told otherwise."""
        environment = {**self.variables(), "RAY_ADDRESS": self.address, **changes.pop("environment", {})}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            [str(self.python), *map(str, arguments)],
            text=True,
            env=environment,
            cwd=changes.pop("cwd", self.folder),
            **{**streams, **self.identity, **changes},
        )

    def run(self, script: Path, payload: Any, timeout: float = 180.0, **changes: Any) -> "Answer":
        """Runs a driver with JSON on its stdin and returns its last ``RESULT`` line and all that it printed.

        Raises:
            NodeError: it failed, was too slow or had no result.
        """
        process = self.spawn([script], **changes)
        try:
            output, _ = process.communicate(json.dumps(payload), timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise NodeError(f"{script.name} was not done after {timeout:g} s\n{output[-4000:]}") from None
        return Answer.of(process.returncode, output)


@dataclass
class MoreNode(RayNode):
    """Another raylet of a cluster, on this machine, with folders of its own (Ray 2.5x and later)."""

    head: RayNode | None = None

    def _role(self) -> dict[str, str]:
        if self.head is None:
            raise NodeError("another node needs a head")
        return {"--address": self.head.address, "--include-log-monitor": "false"}


@dataclass(frozen=True)
class Answer:
    """What a driver found, and all that it and Ray printed meanwhile."""

    value: Any
    output: str

    @classmethod
    def of(cls, code: int, output: str) -> "Answer":
        """Reads a driver's output."""
        results = [line for line in output.splitlines() if line.startswith(_RESULT)]
        if code != 0 or not results:
            raise NodeError(f"the driver ended with {code}\n{output[-6000:]}")
        return cls(json.loads(results[-1].removeprefix(_RESULT)), output)


def _is_called(pid: int, name: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return any(word.endswith("/" + name) for word in words[:4])


def link_pids(node: RayNode) -> list[int]:
    """The processes that run in place of Ray's runtime-env agent (or are it)."""
    return node.pids("runtime_env/agent/main.py")
