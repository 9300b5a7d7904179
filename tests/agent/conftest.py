"""Fixtures for the manager, the client, the command line and doctor."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fake_daemon
import pytest
from manager_world import World


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


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A manager that one session can ask."""
    made = await asyncio.to_thread(World, tmp_path)
    yield made
    await asyncio.to_thread(made.close)


@pytest.fixture
def without_podman(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own is left alone; tests/podman/test_doctor_containers.py has one of its own."""
    monkeypatch.setattr("ray_envd.agent.doctor.containers.examine", lambda *_: [])
