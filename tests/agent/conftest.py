"""Fixtures for the client, the command line and doctor."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fake_daemon
import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    folder = Path(tempfile.mkdtemp(prefix="re-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def daemon_socket(short_path: Path) -> Path:
    return short_path / "d.sock"


@pytest.fixture
def fake(daemon_socket: Path) -> Iterator[fake_daemon.FakeDaemon]:
    """A fake daemon that serves on ``daemon_socket``."""
    daemon = fake_daemon.FakeDaemon()
    server, _ = fake_daemon.start(daemon, daemon_socket)
    yield daemon
    server.stop(None).wait()
