"""Fixtures for the manager, the client, the command line and doctor."""

import asyncio
import shutil
import venv
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import fake_daemon
import pytest
from link_node import Node
from manager_world import World
from ray_installation import Installation


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


@pytest.fixture(scope="session")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment without Ray, to be copied."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder


@pytest.fixture
def ray(bare_venv: Path, tmp_path: Path) -> Installation:
    """A virtual environment with Ray in its site-packages."""
    folder = tmp_path / "venv"
    shutil.copytree(bare_venv, folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    return Installation(folder / "bin" / "python", site_packages / "ray")


@pytest.fixture
def node(short_tmp: Path) -> Iterator[Node]:
    """A node for a link, whose processes end with the test."""
    made = Node(short_tmp)
    try:
        yield made
    finally:
        made.close()


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
