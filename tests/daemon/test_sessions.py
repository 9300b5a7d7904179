"""When a session's references end: with its raylet, not with its link, and never one too few before."""

import os
import signal
import socket
from pathlib import Path

from daemons import Daemon
from helpers import wait_until
from raylet import CREATE, Raylet, serialize

from ray_envd.agent.pb import admin_pb2
from ray_envd.agent.pb import runtime_env_pb2 as pb

ENV = {"env_vars": {"A": "1"}}


def test_a_raylet_that_goes_on_without_its_link_keeps_its_envs(node: Daemon, raylet: Raylet) -> None:
    """Its workers stand on them; with the raylet they end."""
    assert raylet.process is not None
    raylet.prepared(ENV)
    session = session_of(node, raylet)
    os.kill(raylet.process.pid, signal.SIGSTOP)  # else it would end with its link, as a real one does
    os.kill(raylet.link_pid, signal.SIGKILL)
    wait_until(lambda: not session_of(node, raylet).connected, 5, "the loss of the link")
    assert session_of(node, raylet).references == 1
    assert session.id in [path.name for path in (node.store / "sessions-v1").iterdir()]
    raylet.kill()
    wait_until(lambda: node.stats().references == 0, 5, "the end of the session")
    assert session.id not in [path.name for path in (node.store / "sessions-v1").iterdir()]


def test_a_raylet_that_nobody_has_waited_for_is_gone(node: Daemon, raylet: Raylet) -> None:
    """In a container without an init process a zombie may stay for ever; its references must not."""
    assert raylet.process is not None
    raylet.prepared(ENV)
    raylet.process.kill()
    wait_until(lambda: node.stats().references == 0, 5, "the end of the session")
    stat = Path(f"/proc/{raylet.process.pid}/stat").read_text()
    assert stat.rpartition(")")[2].split()[0] == "Z"


def session_of(node: Daemon, raylet: Raylet) -> admin_pb2.Session:
    """What the daemon says of a raylet's session."""
    assert raylet.process is not None
    with node.admin() as admin:
        sessions = admin.List(admin_pb2.ListRequest()).sessions
    (found,) = [each for each in sessions if each.raylet_pid == raylet.process.pid]
    return found


def test_answers_that_nobody_read_count_too_many_and_never_too_few(node: Daemon, raylet: Raylet) -> None:
    """A raylet that drops its connection may have one reference too many for each, until its session ends."""
    heard, dropped = 0, 0
    for number in range(60):
        if number % 3 == 2:
            assert drop(raylet, read=0 if number % 2 else 1)
            dropped += 1
        elif number % 7 == 6:
            heard -= raylet.delete(ENV)
        else:
            raylet.prepared(ENV)
            heard += 1
        assert heard <= raylet.references() <= heard + dropped
    counted = raylet.references()
    for _ in range(heard):
        assert raylet.delete(ENV)
    assert raylet.references() == counted - heard
    raylet.kill()
    wait_until(lambda: node.stats().references == 0, 5, "the end of the session")


def test_a_request_that_nobody_waits_for_any_more_counts_nothing(node: Daemon, raylet: Raylet) -> None:
    """Dropped while its env is prepared: the preparation is given up, and no reference stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/never.zip"
        connection = ask(raylet, {"working_dir": url})
        silent.settimeout(20)
        asking, _ = silent.accept()
        with asking:
            connection.close()
            wait_until(lambda: not node.stats().building, 5, "the end of the preparation")
    assert raylet.references() == 0


def drop(raylet: Raylet, read: int) -> bool:
    """Asks for the env and leaves; with ``read``, once the answer is there."""
    with ask(raylet, ENV) as connection:
        return not read or bool(connection.recv(read))


def ask(raylet: Raylet, env: dict[str, object]) -> socket.socket:
    """Sends a request and returns its connection."""
    request = pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=serialize(env), source_process="raylet")
    body = request.SerializeToString()
    head = f"POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", raylet.port))
    connection.sendall(head.encode() + body)
    return connection
