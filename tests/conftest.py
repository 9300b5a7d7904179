"""Fixtures for every test. Fixtures of one area live in that area's own conftest."""

import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
# Read when gRPC is loaded: children that are forked as another user died of its handlers now and then.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from daemons import Daemon  # noqa: E402 - tools/ is no package; it is on the path from here on
from podman_fixtures import (  # noqa: E402, F401 - as above; fixtures are found by their names here
    make_image,
    podman_folder,
    podman_world,
    registry,
    rootless_world,
    small_image,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of what is too long for every run is done."""
    group = parser.getgroup("ray-envd")
    group.addoption("--crash-points", default="14", metavar="N|all", help="steps to kill a daemon at")
    group.addoption("--crash-seed", default=0, type=int, metavar="N", help="chooses which steps")


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's may have 107 bytes, and pytest's own are long."""
    folder = Path(tempfile.mkdtemp(prefix="re-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def other_users() -> None:
    """For tests of other users: only root can act as one, and he must be able to run us where we stand."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    probe = [sys.executable, "-I", "-c", "import ray_envd.agent.fetcher"]
    try:
        subprocess.run(probe, check=True, user=41000, group=41000, extra_groups=[], cwd="/")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("another user cannot run this interpreter where it stands")


@pytest.fixture(autouse=True)
def _no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """While an async test runs, a blocking call of this project on the event loop is an error."""
    function = getattr(request.node, "function", None)
    if not inspect.iscoroutinefunction(function) or request.node.get_closest_marker("ray"):
        yield
        return
    guard = BlockBuster(scanned_modules=["ray_envd"])
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


@pytest.fixture
def start_daemon(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts real daemons on stores of their own; ends them, and shows their logs if the test failed."""
    daemons: list[Daemon] = []

    def start(*arguments: str, folder: Path | None = None) -> Daemon:
        daemon = Daemon.at(folder or short_tmp, *arguments)
        daemons.append(daemon)
        return daemon.start()

    failures = request.session.testsfailed
    yield start
    for daemon in daemons:
        if request.session.testsfailed > failures:
            sys.stderr.write(f"\n--- {daemon.log}\n{daemon.tail()}\n")
        daemon.stop()


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that serves."""
    return start_daemon()
