"""A link whose daemon comes and goes, or is to be started."""

import fcntl
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from link_node import LINK_DAEMON, PATIENCE, Node, get, wait_for

from ray_envd.agent import config_sources
from ray_envd.agent.link.hello import SYSTEM_SOCKET, sockets
from ray_envd.agent.link.starter import STARTS


def test_requests_outlive_a_killed_daemon(node: Node) -> None:
    """Killed with -9: the port stays bound, a request made meanwhile waits for the next daemon's answer."""
    first = node.daemon()
    node.link()
    port = node.port()
    assert get(port) == str(first.pid)
    session = node.hello()["session"]
    first.kill()
    first.wait()
    waiting = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    waiting.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
    second = node.daemon()
    assert str(second.pid).encode() in waiting.recv(4096)
    waiting.close()
    assert node.hello(2)["session"] == session
    assert get(port) == str(second.pid)


def test_daemon_that_is_busy_is_asked_again(node: Node) -> None:
    """A refusal without fallback is a matter of time."""
    no, yes = {"ok": False, "error": "draining", "fallback": False}, {"ok": True, "version": "fake"}
    daemon = node.daemon(answers=json.dumps([no, no, yes]))
    node.link()
    assert get(node.port()) == str(daemon.pid)
    assert len(node.found("hello-*.json")) == 3


def test_daemon_is_started_on_demand(node: Node) -> None:
    """Apart from the raylet in every way: session, folder, streams, environment; RAY_ENVD_* are passed on."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON), "serve", "--flag"])
    node.environment.update(RAY_ENVD_STORE="/a/store", RAY_AUTH_TOKEN="s3cret", PYTHONPATH="/job")
    # Ray starts its children with SIGINT blocked.
    node.link(preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}))
    assert get(node.port())
    (facts,) = node.found("daemon-*.json")
    assert facts["argv"][1:] == ["serve", "--flag"]
    assert facts["session"] == facts["pid"]
    assert facts["cwd"] == "/"
    assert facts["blocked_signals"] == []
    environment = facts["environment"]
    assert environment["RAY_ENVD_STORE"] == "/a/store"
    assert environment["RAY_ENVD_SOCKET"] == str(node.control)
    assert not {"RAY_AUTH_TOKEN", "PYTHONPATH", "RAY_RAYLET_PID", "TEST_FOLDER"} & environment.keys()
    log = f"{node.control}.start/daemon.log"
    assert facts["descriptors"] == {"0": os.devnull, "1": log, "2": log}
    assert Path(log).parent.stat().st_mode & 0o777 == 0o700


def test_variable_names_another_socket(node: Node) -> None:
    """RAY_ENVD_SOCKET goes before the socket that attach wrote."""
    daemon = node.daemon()
    node.attach(socket="/nonexistent/d.sock.link")
    node.environment["RAY_ENVD_SOCKET"] = str(node.control)
    node.link()
    assert get(node.port()) == str(daemon.pid)


def test_several_links_at_once_share_one_daemon(node: Node) -> None:
    """Each may start one; the store's lock leaves one, and the others' exit code 5 is no failure."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)])
    sessions = []
    for number in range(4):
        session = node.folder / f"s{number}"
        (session / "logs").mkdir(parents=True)
        words = [word.replace(str(node.session), str(session)) for word in node.flags()]
        sessions.append((session, node.link(words)))
    answers = set()
    for session, process in sessions:
        path = session / "runtime_env_agent_port_abc"
        wait_for(path.exists, "the port file")
        answers.add(get(int(path.read_text())))
        assert process.poll() is None
    assert answers == {str(facts["pid"]) for facts in node.found("daemon-*.json")}
    assert len(answers) == 1
    assert not (node.folder / "stock.json").exists()
    for pid in node.found("locked-*.json"):
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "a zombie to be reaped")


def test_store_that_is_locked_for_a_while_is_waited_for(node: Node) -> None:
    """A daemon that drains holds its store: those started meanwhile are no failures, and one succeeds it."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)])
    with (node.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        node.link()
        wait_for(lambda: len(node.found("locked-*.json")) > STARTS, "starts against the lock")
    assert get(node.port()).isdigit()
    assert not (node.folder / "stock.json").exists()


def test_killed_daemon_is_started_again(node: Node) -> None:
    """Where nobody supervises the daemon the link does, on the same port; also its zombie is reaped."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)])
    process = node.link()
    port = node.port()
    first = int(get(port))
    os.kill(first, signal.SIGKILL)
    node.hello(2)
    second = int(get(port))
    assert second != first
    assert process.poll() is None
    wait_for(lambda: not Path(f"/proc/{first}").exists(), "the first daemon's zombie")


def test_daemon_that_is_killed_while_it_starts_is_started_again(node: Node) -> None:
    """Who is killed from outside, however often, is not broken; only an end of its own counts."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)])
    node.environment["RAY_ENVD_TEST_KILLED"] = str(STARTS + 1)
    node.link()
    assert get(node.port()).isdigit()
    assert not (node.folder / "stock.json").exists()


@pytest.mark.parametrize(
    ("uid", "variables", "settings", "expected"),
    [
        (0, {}, {}, [SYSTEM_SOCKET]),
        (0, {"RAY_ENVD_STORE": "/s", "XDG_RUNTIME_DIR": "/r"}, {}, [SYSTEM_SOCKET]),
        (7, {"XDG_RUNTIME_DIR": "/r"}, {}, [SYSTEM_SOCKET, "/r/ray-envd/ray-envd.sock.link"]),
        (7, {"RAY_ENVD_STORE": "/s"}, {}, [SYSTEM_SOCKET, "/s/run/ray-envd.sock.link"]),
        (7, {"XDG_STATE_HOME": "/x"}, {}, [SYSTEM_SOCKET, "/x/ray-envd/run/ray-envd.sock.link"]),
        (7, {}, {}, [SYSTEM_SOCKET, "/home/u/.local/state/ray-envd/run/ray-envd.sock.link"]),
        (7, {}, {"socket": "/a.link"}, ["/a.link"]),
        (7, {"RAY_ENVD_SOCKET": "/b"}, {"socket": "/a.link"}, ["/b.link"]),
    ],
)
def test_socket_is_the_one_that_the_daemon_would_choose(
    monkeypatch: pytest.MonkeyPatch,
    *,
    uid: int,
    variables: dict[str, str],
    settings: dict[str, object],
    expected: list[str],
) -> None:
    """Variable, then attach's setting, then the system's daemon and the default of the raylet's user."""
    for name in ("RAY_ENVD_SOCKET", "RAY_ENVD_STORE", "RAY_ENVD_CONFIG", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert sockets(settings) == expected
    if not settings:
        # The same words that the daemon's own configuration comes to.
        chosen = config_sources.load(root=uid == 0).settings.socket
        assert f"{chosen}.link" == expected[-1]
