"""A node's runtime-env agent as its raylet sees it: Ray's own, or the daemon behind the link."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processes import NodeError, wait_until
from rays import RayNode

from ray_envd.agent.pb import runtime_env_pb2 as pb

CREATE, DELETE = "/get_or_create_runtime_env", "/delete_runtime_env_if_possible"


class Agent:
    """Calls the agent of a node that runs, as soon as it listens: a node may be up before."""

    def __init__(self, node: RayNode) -> None:
        (file,) = node.session.glob("runtime_env_agent_port_*")
        self.port = int(file.read_text())
        self.host = _host(node)
        self.address = self.host, self.port
        wait_until(self._listens, 30, "the agent's port")
        self._headers = {
            "Content-Type": "application/octet-stream",
            "Authorization": f"Bearer {node.token}",
        }

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port)):
            return True
        return False

    def create(self, env: Mapping[str, Any]) -> float:
        """GetOrCreateRuntimeEnv: seconds from the connection to the whole answer.

        Raises:
            NodeError: it failed.
        """
        body = create_request(env)
        began = time.perf_counter()
        content = self._post(CREATE, body)
        took = time.perf_counter() - began
        reply = pb.GetOrCreateRuntimeEnvReply.FromString(content)
        if reply.status != pb.AGENT_RPC_STATUS_OK:
            raise NodeError(reply.error_message)
        return took

    def delete(self, env: Mapping[str, Any]) -> None:
        """DeleteRuntimeEnvIfPossible."""
        request = pb.DeleteRuntimeEnvIfPossibleRequest(serialized_runtime_env=_serialized(env))
        self._post(DELETE, request.SerializeToString())

    def _post(self, path: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", path, body, self._headers)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise NodeError(f"{answer.status}: {content!r}")
        return content

    def request(self, env: Mapping[str, Any]) -> bytes:
        """GetOrCreateRuntimeEnv as it stands on the wire."""
        body = create_request(env)
        head = [f"POST {CREATE} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in self._headers.items()]
        return "\r\n".join((*head, "", "")).encode() + body

    def answer(self, env: Mapping[str, Any]) -> bytes:
        """What comes back for :meth:`request`, to the end of the connection."""
        with socket.create_connection(self.address, timeout=120) as connection:
            connection.sendall(self.request(env).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def _host(node: RayNode) -> str:
    """Where the agent listens: the node's own address, whatever Ray was asked for."""
    words = Path(f"/proc/{node.raylet_pid()}/cmdline").read_text().split("\0")
    name = "--node_ip_address="
    return next(word.removeprefix(name) for word in words if word.startswith(name))


def create_request(env: Mapping[str, Any]) -> bytes:
    """The body of GetOrCreateRuntimeEnv, as a raylet makes it."""
    request = pb.GetOrCreateRuntimeEnvRequest(
        serialized_runtime_env=_serialized(env), job_id=b"01000000", source_process="raylet"
    )
    return request.SerializeToString()


def _serialized(env: Mapping[str, Any]) -> str:
    return json.dumps(env, sort_keys=True)
