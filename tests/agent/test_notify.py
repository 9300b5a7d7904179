"""Words to systemd, heard on a real datagram socket."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_envd.agent import notify


@pytest.fixture(params=["path", "abstract"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A socket where systemd would listen, in both kinds of addresses."""
    name = secrets.token_hex(8)
    path = str(tmp_path / "n") if request.param == "path" else f"@ray-envd-test-{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path.replace("@", "\0"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield listener


def test_each_word_is_one_datagram(supervisor: socket.socket) -> None:
    """State and status line arrive as sd_notify(3) writes them."""
    notify.ready()
    notify.ready("serving 2 raylets")
    notify.watchdog()
    notify.say("collecting")
    notify.stopping("draining")
    heard = [supervisor.recv(4096).decode() for _ in range(5)]
    assert heard == [
        "READY=1",
        "READY=1\nSTATUS=serving 2 raylets",
        "WATCHDOG=1",
        "STATUS=collecting",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_status_is_one_line(supervisor: socket.socket) -> None:
    """A status cannot smuggle in a word of its own, nor exceed a datagram."""
    notify.say("a\nMAINPID=1\n" + "x" * 100_000)
    heard = supervisor.recv(65536).decode()
    assert heard.startswith("STATUS=a MAINPID=1 xxx")
    assert "\n" not in heard
    assert len(heard) < 2000


@pytest.mark.parametrize("path", [None, "", "relative", "/nonexistent/socket", "@nobody-listens"])
def test_nobody_to_tell_is_no_error(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    """Without a supervisor, or with one that has gone, the daemon goes on."""
    if path is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify.ready("x")
    notify.watchdog()


def test_supervisor_that_does_not_read_does_not_block(supervisor: socket.socket) -> None:
    """Its queue is bounded; what does not fit is dropped at once, the event loop never waits."""
    program = "from ray_envd.agent import notify\nfor _ in range(2000): notify.watchdog()"
    subprocess.run([sys.executable, "-c", program], env=dict(os.environ), timeout=30, check=True)
    assert supervisor.recv(100) == b"WATCHDOG=1"
