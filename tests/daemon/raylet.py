"""A raylet as a daemon sees it: the link as its child, its folders, and its calls over HTTP.

The link is the real one. What stands in for the raylet is a process that does nothing but live.
"""

import contextlib
import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import wait_until
from link_folders import put_link
from processes import alive

from ray_envd.agent.pb import runtime_env_pb2 as pb

OK, FAILED = pb.AGENT_RPC_STATUS_OK, pb.AGENT_RPC_STATUS_FAILED
#: Ray's own paths.
CREATE, DELETE, INFO = (
    "/get_or_create_runtime_env",
    "/delete_runtime_env_if_possible",
    "/get_runtime_envs_info",
)
NODE = "abc"
JOB = "01000000"
#: The raylet retries a dropped connection for so long; it then ends.
RETRIES_FOR = 30.0

_RAYLET = """
import os, subprocess, sys
os.environ["RAY_RAYLET_PID"] = str(os.getpid())
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""
#: What keeps a test from asking the metadata service of the machine it runs on, and uv from trying again.
_QUIET = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true", "UV_HTTP_RETRIES": "0"}

Env = Mapping[str, Any] | str


class HttpError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body!r}")
        self.status = status


@dataclass(frozen=True)
class Created:
    """A reply to GetOrCreate."""

    ok: bool
    error: str
    context: str

    @property
    def fields(self) -> dict[str, Any]:
        """The context, parsed."""
        return dict(json.loads(self.context))


@dataclass
class Raylet:
    """A raylet's folders and environment; :meth:`start` brings it up.

    Attributes:
        folder: everything of it, with a short name.
        socket: the daemon's control socket.
        environment: the raylet's.
        python: Ray's interpreter, which runs the link.
        starts: argv of a daemon, for a link that finds none.
        uid: whose raylet it is.
        gcs: address of the key-value store.
        token: carried by every call.
    """

    folder: Path
    socket: Path
    environment: dict[str, str]
    python: str = sys.executable
    starts: Sequence[str] | None = None
    uid: int | None = None
    gcs: str = "127.0.0.1:1"
    token: str | None = None
    process: subprocess.Popen[bytes] | None = None
    link_pid: int = 0
    port: int = 0

    @property
    def session(self) -> Path:
        """The session's folder."""
        return self.folder / "session"

    @property
    def resources(self) -> Path:
        """What Ray calls --runtime-env-dir."""
        return self.session / "runtime_resources"

    @property
    def logs(self) -> Path:
        """The log folder, where the driver looks for set-up logs."""
        return self.session / "logs"

    def start(self) -> "Raylet":
        """Runs the link and returns once the daemon serves its port."""
        self._make_folders()
        identity: dict[str, Any] = (
            {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        )
        home = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
        self.environment = {**home, **_QUIET, **self.environment}
        with (self.folder / "raylet.out").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    self.python,
                    "-c",
                    _RAYLET,
                    self.python,
                    "-u",
                    str(self.folder / "agent/main.py"),
                    *self._flags(),
                ],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd="/",
                start_new_session=True,
                **identity,
            )
        assert self.process.stdout is not None
        self.link_pid = int(self.process.stdout.readline())
        port_file = self.session / f"runtime_env_agent_port_{NODE}"
        wait_until(port_file.exists, 15, "the port file")
        self.port = int(port_file.read_text())
        wait_until(lambda: "is served by" in self.link_log(), 20, "the daemon's answer to the link")
        return self

    def _make_folders(self) -> None:
        for path in (self.folder / "agent", self.logs, self.resources):
            path.mkdir(parents=True)
        settings = {
            "version": "1",
            "socket": f"{self.socket}.link",
            "daemon": None if self.starts is None else list(self.starts),
            "ray_version": "2.60.0",
            "start_seconds": 20,
            "restart_seconds": 20,
        }
        put_link(self.folder / "agent", settings, Path(self.python))
        if self.uid is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, self.uid, self.uid)

    def _flags(self) -> list[str]:
        """The words of a raylet of 2.60."""
        return [
            f"--node-id={NODE}",
            "--node-ip-address=127.0.0.1",
            "--runtime-env-agent-port=0",
            f"--session-dir={self.session}",
            f"--gcs-address={self.gcs}",
            "--cluster-id-hex=00ff",
            f"--runtime-env-dir={self.resources}",
            "--logging-rotate-bytes=536870912",
            "--logging-rotate-backup-count=5",
            f"--log-dir={self.logs}",
            f"--temp-dir={self.folder}",
        ]

    # its end

    def kill(self) -> None:
        """SIGKILL for the raylet alone; its link has to notice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def close(self) -> None:
        """Ends raylet and link, whatever state they are in."""
        self.kill()
        if self.link_pid:
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not alive(self.link_pid), 5, "the link's end")
            with contextlib.suppress(OSError):
                if str(self.folder) in Path(f"/proc/{self.link_pid}/cmdline").read_text():
                    os.kill(self.link_pid, signal.SIGKILL)

    # its calls

    def post(self, path: str, body: bytes, *, method: str = "POST", **headers: str) -> bytes:
        """One call on a connection of its own; underscores in header names are dashes.

        Raises:
            HttpError: the answer is not 200.
            OSError, http.client.HTTPException: the connection failed or was dropped.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        words = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            words.setdefault("Authorization", f"Bearer {self.token}")
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/octet-stream", **words})
            answer = connection.getresponse()
            content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise HttpError(answer.status, content)
        return content

    def create(
        self,
        env: Env,
        *,
        timeout: int = 0,
        job: str = JOB,
        source: str = "raylet",
        log_files: Sequence[str] = (),
    ) -> Created:
        """GetOrCreateRuntimeEnv."""
        request = pb.GetOrCreateRuntimeEnvRequest(
            serialized_runtime_env=serialize(env), job_id=job.encode(), source_process=source
        )
        request.runtime_env_config.setup_timeout_seconds = timeout
        request.runtime_env_config.log_files.extend(log_files)
        reply = pb.GetOrCreateRuntimeEnvReply.FromString(self.post(CREATE, request.SerializeToString()))
        return Created(reply.status == OK, reply.error_message, reply.serialized_runtime_env_context)

    def prepared(self, env: Env, **options: Any) -> Created:
        """:meth:`create`, which must succeed."""
        created = self.create(env, **options)
        assert created.ok, created.error
        return created

    def refused(self, env: Env, **options: Any) -> str:
        """:meth:`create`, which must fail; returns the message."""
        created = self.create(env, **options)
        assert not created.ok
        assert not created.context
        return created.error

    def persistent(self, env: Env, **options: Any) -> Created:
        """:meth:`create`, with a raylet's patience: a connection that fails is tried again each second."""
        end = time.monotonic() + RETRIES_FOR
        while True:
            try:
                return self.create(env, **options)
            except (OSError, http.client.HTTPException):
                if time.monotonic() > end:
                    raise
                time.sleep(1.0)

    def delete(self, env: Env, *, source: str = "raylet") -> bool:
        """DeleteRuntimeEnvIfPossible: whether there was a reference."""
        request = pb.DeleteRuntimeEnvIfPossibleRequest(
            serialized_runtime_env=serialize(env), source_process=source
        )
        reply = pb.DeleteRuntimeEnvIfPossibleReply.FromString(self.post(DELETE, request.SerializeToString()))
        assert bool(reply.error_message) == (reply.status == FAILED)
        return bool(reply.status == OK)

    def info(self, limit: int | None = None) -> Any:
        """GetRuntimeEnvsInfo."""
        request = pb.GetRuntimeEnvsInfoRequest()
        if limit is not None:
            request.limit = limit
        return pb.GetRuntimeEnvsInfoReply.FromString(self.post(INFO, request.SerializeToString()))

    def references(self) -> int:
        """How many references the daemon counts for this raylet."""
        return sum(state.ref_cnt for state in self.info().runtime_env_states)

    # what it and its user read

    def link_log(self) -> str:
        """The link's words."""
        path = self.logs / "runtime_env_agent.log"
        return path.read_text() if path.exists() else ""

    def setup_log(self, job: str = JOB) -> str:
        """What the driver of a job shows its user."""
        path = self.logs / f"runtime_env_setup-{job}.log"
        return path.read_text() if path.exists() else ""

    # a worker

    def run(self, created: Created, code: str, **environment: str) -> str:
        """What a program prints that starts as Ray starts a worker (RuntimeEnvContext.exec_worker)."""
        context = created.fields
        process = {**self.environment, **environment, **context["env_vars"]}
        words = [*context["command_prefix"], "exec", context["py_executable"], "-c", shlex.quote(code)]
        identity: dict[str, Any] = (
            {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        )
        done = subprocess.run(
            ["bash", "-c", " ".join(words)],
            env=process,
            cwd=self.session,
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def serialize(env: Env) -> str:
    """As Ray's driver does it: sorted JSON; a text goes as it is."""
    return env if isinstance(env, str) else json.dumps(env, sort_keys=True)


#: Attaches a raylet; see the fixture ``make_raylet``.
MakeRaylet = Callable[..., Raylet]
