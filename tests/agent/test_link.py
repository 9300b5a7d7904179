"""The link, run as a raylet runs it, against a stand-in for the daemon that is a real process."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_node import LINK_DAEMON, PATIENCE, Node, ended, get, wait_for

from ray_envd.agent import config_sources, link


@pytest.fixture
def node(short_tmp: Path) -> Iterator[Node]:
    """A node whose processes end with the test."""
    made = Node(short_tmp)
    try:
        yield made
    finally:
        made.close()


def interpreters() -> list[str]:
    """Every Python of 3.9 to 3.13 that this machine has, one of each minor version."""
    roots = [Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"]
    found = {"{}.{}".format(*sys.version_info): sys.executable}
    for minor in range(9, 14):
        candidates = [shutil.which(f"python3.{minor}")]
        candidates += [str(path) for root in roots for path in root.glob(f"3.{minor}.*/bin/python3.{minor}")]
        for candidate in candidates:
            if (
                candidate
                and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0
            ):
                found.setdefault(f"3.{minor}", candidate)
    return sorted(found.values())


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
    """The one file works under each interpreter from 3.9 on, without a warning."""
    daemon = node.daemon()
    process = node.run(node.argv(python=python), stderr=subprocess.PIPE)
    assert get(node.port()) == str(daemon.pid)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_imports_little() -> None:
    """What takes long to import, and Ray above all, stays out: a raylet waits for this script."""
    program = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); import link;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    folder = str(Path(link.__file__).parent)
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program, folder], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "ray",
        "argparse",
        "asyncio",
        "dataclasses",
        "logging",
        "pathlib",
        "subprocess",
        "threading",
        "typing",
    }
    assert not heavy & set(output)


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
    assert link.parse_flags(argv) == flags


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
    assert link.with_port(argv, 7) == ["--x=1", "--y", "2", "--runtime-env-agent-port=7"]


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
        with pytest.raises(link.FallbackError):
            link.cluster_token(version)
    else:
        assert link.cluster_token(version) == expected


# The daemon comes and goes


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
        wait_for(lambda: len(node.found("locked-*.json")) > link.STARTS, "starts against the lock")
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
    node.environment["RAY_ENVD_TEST_KILLED"] = str(link.STARTS + 1)
    node.link()
    assert get(node.port()).isdigit()
    assert not (node.folder / "stock.json").exists()


@pytest.mark.parametrize(
    ("uid", "variables", "settings", "expected"),
    [
        (0, {}, {}, [link.SYSTEM_SOCKET]),
        (0, {"RAY_ENVD_STORE": "/s", "XDG_RUNTIME_DIR": "/r"}, {}, [link.SYSTEM_SOCKET]),
        (7, {"XDG_RUNTIME_DIR": "/r"}, {}, [link.SYSTEM_SOCKET, "/r/ray-envd/ray-envd.sock.link"]),
        (7, {"RAY_ENVD_STORE": "/s"}, {}, [link.SYSTEM_SOCKET, "/s/run/ray-envd.sock.link"]),
        (7, {"XDG_STATE_HOME": "/x"}, {}, [link.SYSTEM_SOCKET, "/x/ray-envd/run/ray-envd.sock.link"]),
        (7, {}, {}, [link.SYSTEM_SOCKET, "/home/u/.local/state/ray-envd/run/ray-envd.sock.link"]),
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
    assert link.sockets(settings) == expected
    if not settings:
        # The same words that the daemon's own configuration comes to.
        chosen = config_sources.load(root=uid == 0).settings.socket
        assert f"{chosen}.link" == expected[-1]


# The raylet's end, and the link's


def test_link_ends_with_its_raylet_and_leaves_the_daemon(node: Node) -> None:
    """The raylet is killed with -9: the link goes at once; the daemon, never the raylet's child, stays."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)])
    raylet, link_pid = node.raylet()
    assert get(node.port())
    (facts,) = node.found("daemon-*.json")
    # The raylet is a subreaper: an orphan would be its child, and it kills children it does not know.
    assert facts["parent"] == link_pid
    raylet.kill()
    assert ended(link_pid, 2.0)
    assert wait_for(lambda: node.found("ended-*.json"), "the end of the session")
    assert not ended(facts["pid"], 0.2)
    assert re.search(r"the raylet \(pid \d+\) has ended", node.log())


def test_link_ends_with_its_raylet_while_it_waits_for_a_daemon(node: Node) -> None:
    """Also before there is a daemon the raylet's end is the link's."""
    raylet, link_pid = node.raylet()
    node.port()
    raylet.kill()
    assert ended(link_pid, 2.0)
    assert not (node.folder / "stock.json").exists()


def test_raylet_need_not_be_the_parent(node: Node) -> None:
    """Where something stands between the two, the process that RAY_RAYLET_PID names is the raylet."""
    raylet = node.run(["sleep", "60"])
    node.environment["RAY_RAYLET_PID"] = str(raylet.pid)
    process = node.link()
    node.port()
    raylet.kill()
    assert ended(process.pid, 2.0)


def test_orphaned_link_ends(node: Node) -> None:
    """A link whose parent has gone ends, whatever RAY_RAYLET_PID says, as stock does."""
    program = "import subprocess, sys; c = subprocess.Popen(sys.argv[1:]); print(c.pid, flush=True); c.wait()"
    parent = node.run([sys.executable, "-c", program, *node.argv()], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    link_pid = int(parent.stdout.readline())
    node.port()
    parent.kill()
    assert ended(link_pid, 5.0)


@pytest.mark.parametrize(("variable", "ends"), [("1", True), ("true", True), ("0", False)])
def test_stdin_counts_only_where_stock_reads_it(node: Node, variable: str, *, ends: bool) -> None:
    """The end of stdin is the raylet's end only in Ray's pipe mode; elsewhere it may be /dev/null."""
    node.environment["RAY_enable_pipe_based_agent_to_parent_health_check"] = variable
    node.daemon()
    process = node.link(stdin=subprocess.PIPE)
    assert get(node.port())
    assert process.stdin is not None
    process.stdin.write(b"still here\n")
    process.stdin.flush()
    assert not ended(process.pid, 0.1)
    process.stdin.close()
    assert ended(process.pid, 2.0 if ends else 1.2) == ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(node: Node, number: signal.Signals) -> None:
    """Exit code 0, as stock; and the daemon hears that the session has ended."""
    node.daemon()
    process = node.link()
    assert get(node.port())
    process.send_signal(number)
    assert process.wait(2.0) == 0
    assert wait_for(lambda: node.found("ended-*.json"), "the end of the session")


# The stock agent


def test_without_a_daemon_the_stock_agent_runs(node: Node) -> None:
    """In time, in the link's process, on the port that the raylet was told, with a warning that says why."""
    node.attach(start_seconds=0.3)
    process = node.link(stderr=subprocess.PIPE)
    stock = node.stock()
    port = node.port()
    assert stock["pid"] == process.pid
    words = [word for word in node.flags() if "agent-port" not in word]
    assert stock["argv"] == [str(node.agent / link.STOCK_NAME), *words, f"--runtime-env-agent-port={port}"]
    assert get(port) == "stock"
    process.kill()
    assert process.stderr is not None
    warning = process.stderr.read().decode()
    for text in (warning, node.log()):
        assert re.search(r"WARNING .*stock runtime-env agent.*no daemon within 0.3 s: .*No such file", text)


def test_lost_daemon_that_does_not_return_ends_in_the_stock_agent(node: Node) -> None:
    """After restart_seconds, on the same port."""
    node.attach(restart_seconds=0.3)
    daemon = node.daemon()
    node.link()
    port = node.port()
    assert get(port) == str(daemon.pid)
    daemon.kill()
    node.stock()
    assert get(port) == "stock"
    assert "no daemon within 0.3 s" in node.log()


def test_daemon_can_send_a_raylet_to_the_stock_agent(node: Node) -> None:
    """A refusal with fallback is obeyed at once, also if the daemon forgets to close the socket."""
    node.daemon(answers='[{"ok": false, "error": "not for you", "fallback": true}]')
    node.link()
    node.stock()
    assert "not for you" in node.log()
    assert len(node.found("hello-*.json")) == 1


def test_daemon_that_cannot_start_is_given_up_early(node: Node) -> None:
    """After three ends at the start; the warning holds the exit code and the daemon's last words."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)], start_seconds=60)
    node.environment["RAY_ENVD_TEST_EXIT"] = "3"
    node.link()
    node.stock()
    assert len(node.found("exited-*.json")) == 3
    assert "exit code 3" in node.log()
    assert "these are my last words" in node.log()


def test_daemon_program_that_is_missing(node: Node) -> None:
    """A ray-envd that was removed after attach costs no time; the warning names it."""
    node.attach(daemon=["/nonexistent/ray-envd", "serve"], start_seconds=60)
    node.link()
    node.stock()
    assert "/nonexistent/ray-envd cannot be run" in node.log()


def test_daemon_program_that_cannot_be_executed(node: Node) -> None:
    """The reason of a failed execution is in the warning too."""
    program = node.folder / "ray-envd"
    program.write_text("#!/nonexistent/python\n")
    program.chmod(0o755)
    node.attach(daemon=[str(program)], start_seconds=60)
    node.link()
    node.stock()
    assert f"cannot start {program}" in node.log()


def test_daemon_that_dies_of_every_hello_is_given_up(node: Node) -> None:
    """A daemon that is lost at once, again and again, must not cost a node its runtime envs."""
    node.daemon(hang_up="1")
    node.link()
    node.stock()
    assert len(node.found("hello-*.json")) == link.SHORT_LIVES


@pytest.mark.parametrize("settings", ["{", "[]", None])
def test_broken_settings_end_in_the_stock_agent(node: Node, settings: str | None) -> None:
    """Whatever is wrong with the link, the node has an agent."""
    path = node.agent / link.SETTINGS_NAME
    path.unlink()
    if settings is not None:
        path.write_text(settings)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node.link(node.flags(port))
    node.stock()
    assert get(port) == "stock"


def test_start_log_of_somebody_else_is_not_written(node: Node) -> None:
    """A folder that others may write to is not where a daemon's words go."""
    node.attach(daemon=[sys.executable, str(LINK_DAEMON)])
    folder = Path(f"{node.control}.start")
    folder.mkdir()
    folder.chmod(0o777)
    node.link()
    node.stock()
    assert "not a private folder" in node.log()
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to start a process of another user")
def test_stranger_on_the_socket_hears_nothing(node: Node) -> None:
    """The hello holds secrets: a listener that is neither root nor this user gets none of them."""
    node.folder.chmod(0o777)
    environment = {**node.environment, "RAY_ENVD_SOCKET": str(node.control)}
    # A Python that any user may run; root's own may stand in root's home.
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("no Python that another user may run")
    script = node.folder / "link_daemon.py"
    shutil.copy(LINK_DAEMON, script)
    node.run([python, str(script)], env=environment, user=65534, group=65534, extra_groups=[])
    wait_for(Path(f"{node.control}.link").exists, "the stranger's socket")
    node.link()
    node.stock()
    assert "belongs to uid 65534" in node.log()
    assert not node.found("hello-*.json")


def test_logs_to_stderr_where_ray_does(node: Node) -> None:
    """With an empty --logging-filename the link's lines go where the agent's streams go, and nowhere else."""
    node.daemon()
    output = node.folder / "agent.err"
    node.link([*node.flags(), "--logging-filename=", f"--stderr-filepath={output}"])
    assert get(node.port())
    assert wait_for(
        lambda: output.exists() and "is served by ray-envd fake" in output.read_text(), "the line"
    )
    assert not node.log()
