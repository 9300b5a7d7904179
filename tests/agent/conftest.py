"""Fixtures for the client, the command line and doctor."""

from collections.abc import Iterator
from pathlib import Path

import fake_daemon
import pytest


@pytest.fixture
def daemon_socket(short_tmp: Path) -> Path:
    return short_tmp / "d.sock"


@pytest.fixture
def fake(daemon_socket: Path) -> Iterator[fake_daemon.FakeDaemon]:
    """A fake daemon that serves on ``daemon_socket``."""
    daemon = fake_daemon.FakeDaemon()
    server, _ = fake_daemon.start(daemon, daemon_socket)
    yield daemon
    server.stop(None).wait()
