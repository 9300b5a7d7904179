"""How a link ends: with its raylet, by a signal, or as the stock agent."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from link_node import LINK_DAEMON, Node, ended, get, wait_for

from ray_envd.agent.link.script import SETTINGS_NAME, STOCK_NAME
from ray_envd.agent.link.session import SHORT_LIVES

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
    assert stock["argv"] == [str(node.agent / STOCK_NAME), *words, f"--runtime-env-agent-port={port}"]
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
    assert len(node.found("hello-*.json")) == SHORT_LIVES


@pytest.mark.parametrize("settings", ["{", "[]", None])
def test_broken_settings_end_in_the_stock_agent(node: Node, settings: str | None) -> None:
    """Whatever is wrong with the link, the node has an agent."""
    path = node.agent / SETTINGS_NAME
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
