"""The link, run as a raylet runs it, against a stand-in for the daemon that is a real process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import interpreters
from link_node import PATIENCE, Node, get

from ray_envd.agent import link
from ray_envd.agent.link import FallbackError, hello
from ray_envd.agent.link.raylet import parse_flags, with_port

# The hello and the port


def test_hello_tells_the_daemon_all_about_the_raylet(node: Node) -> None:
    """A link of 2.60 chooses a port, writes it to the port file and describes its raylet in the hello."""
    node.environment["SOME_SETTING"] = "a value"
    node.daemon()
    process = node.link()
    hello = node.hello()
    assert hello["port"] == node.port()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    started = int(Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19])
    expected = {
        "protocol": 1,
        "session": f"{boot}-{os.getpid()}-{started}",
        "node_id": "abc",
        "node_ip": "127.0.0.1",
        "session_dir": str(node.session),
        "gcs_address": "127.0.0.1:6379",
        "cluster_id": "00ff",
        "runtime_env_dir": f"{node.session}/runtime_resources",
        "log_dir": f"{node.session}/logs",
        "temp_dir": str(node.folder),
        "logging": {"rotate_bytes": 1000, "rotate_backup_count": 3, "level": None, "format": None},
        "python": sys.executable,
        "ray_version": "2.60.0",
        "raylet_pid": os.getpid(),
        "raylet_start": started,
        "pid": process.pid,
        "auth": False,
        "token": None,
    }
    assert {name: hello[name] for name in expected} == expected
    assert hello["environment"]["SOME_SETTING"] == "a value"
    assert not list(node.session.glob("runtime_env_agent_port_abc.*")), "the port file is written aside"


def test_raylets_of_2_49_are_understood(node: Node) -> None:
    """No node id, no session dir, words apart: folders are derived, the port is the given one, no file."""
    node.attach(ray_version="2.49.1")
    node.daemon()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--node-ip-address", "127.0.0.2", "--runtime-env-agent-port", str(port)]
    words += ["--some-new-flag", "--runtime-env-dir", f"{node.session}/runtime_resources", "--another", "x y"]
    node.link(words)
    hello = node.hello()
    assert hello["port"] == port
    assert hello["session_dir"] == str(node.session)
    assert hello["log_dir"] == f"{node.session}/logs"
    assert hello["temp_dir"] == str(node.folder)
    assert not list(node.session.glob("runtime_env_agent_port*"))
    assert get(port), "0.0.0.0 includes 127.0.0.1"


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: Path(path).resolve().name)
def test_runs_under_every_python_that_ray_runs_on(node: Node, python: str) -> None:
    """The link works under each interpreter from 3.9 on, also with bytecode of another, without a warning."""
    daemon = node.daemon()
    process = node.run(node.argv(python=python), stderr=subprocess.PIPE)
    assert get(node.port()) == str(daemon.pid)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_imports_little() -> None:
    """What takes long to import, or much memory, and Ray above all, stays out: each raylet has a link."""
    program = (
        "import os, sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        "import link.session, link.script;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    folder = str(Path(link.__file__).parent.parent)
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program, folder], capture_output=True, text=True, check=True
    ).stdout.split()
    light = {"__future__", "binascii", "errno", "link", "select", "struct", "time"}
    assert {name for name in output if not name.startswith("_")} <= light


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        (["--a", "b"], {"a": "b"}),
        (["--a=b=c"], {"a": "b=c"}),
        (["--a="], {"a": ""}),
        (["--a", "--b", "c"], {"a": "", "b": "c"}),
        (["word", "--a", "b", "word"], {"a": "b"}),
        (["--a", "-1"], {"a": "-1"}),
    ],
)
def test_both_dialects_of_flags(argv: list[str], flags: dict[str, str]) -> None:
    """Values with = and values apart; what is no flag is ignored."""
    assert parse_flags(argv) == flags


@pytest.mark.parametrize(
    "argv",
    [
        ["--x=1", "--runtime-env-agent-port=0", "--y", "2"],
        ["--x=1", "--runtime-env-agent-port", "0", "--y", "2"],
        ["--x=1", "--y", "2"],
    ],
)
def test_the_stock_agent_gets_the_bound_port(argv: list[str]) -> None:
    """The port is replaced in both dialects, and nothing else changes."""
    assert with_port(argv, 7) == ["--x=1", "--y", "2", "--runtime-env-agent-port=7"]


# The token


@pytest.mark.parametrize(
    ("version", "variables", "file", "expected"),
    [
        ((2, 60), {}, "abc", (False, None)),
        ((2, 60), {"RAY_AUTH_MODE": "disabled"}, "abc", (False, None)),
        ((2, 60), {"RAY_AUTH_MODE": "bogus"}, "abc", (False, None)),
        ((2, 60), {"RAY_AUTH_MODE": "token"}, "  abc \n", (True, "abc")),
        ((2, 60), {"RAY_AUTH_MODE": "TOKEN", "RAY_AUTH_TOKEN": " env "}, "abc", (True, "env")),
        ((2, 60), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ""}, "abc", (True, "abc")),
        ((2, 60), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "{home}/other"}, "abc", (True, "other")),
        ((2, 60), {"RAY_AUTH_MODE": "k8s"}, "abc", (False, None)),
        ((2, 60), {"RAY_AUTH_MODE": "token", "RAY_ENABLE_K8S_TOKEN_AUTH": "true"}, "abc", None),
        ((2, 60), {"RAY_AUTH_MODE": "token"}, None, None),
        ((2, 60), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": " "}, "abc", None),
        ((2, 60), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nonexistent"}, "abc", None),
        ((2, 53), {"RAY_AUTH_MODE": "k8s"}, "abc", None),
        ((2, 51), {"RAY_AUTH_MODE": "token"}, "abc", (False, None)),
    ],
)
def test_token_is_found_where_ray_finds_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    version: tuple[int, int],
    variables: dict[str, str],
    file: str | None,
    expected: tuple[bool, str | None] | None,
) -> None:
    """Same order and same defaults as Ray's own loader; where stock would abort, stock is run (None)."""
    for name in list(os.environ):
        if name.startswith(("RAY_AUTH", "RAY_ENABLE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "other").write_text("other")
    if file is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(file)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("{home}", str(tmp_path)))
    if expected is None:
        with pytest.raises(FallbackError):
            hello.cluster_token(version)
    else:
        assert hello.cluster_token(version) == expected
