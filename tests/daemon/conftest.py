"""A daemon for each module, and raylets attached to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# Servers, packages and helpers of the neighbours' tests: tests/ has no packages.
sys.path[:0] = [str(HERE.parent / name) for name in (".", "cache", "agent/fetch", "agent/python")]

from daemons import Daemon  # noqa: E402 - found by the lines above
from fetch_servers import S3, serve_s3  # noqa: E402 - as above
from helpers import make_wheel, open_folder  # noqa: E402 - as above
from package_world import UV  # noqa: E402 - as above
from raylet import MakeRaylet, Raylet  # noqa: E402 - as above
from small_disk import daemons, disk, pool  # noqa: E402, F401 - as above; fixtures are found by their names here
from sources import FileServer  # noqa: E402 - as above


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The module's folder, with a short name that every user can enter."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def node(place: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The module's daemon."""
    daemon = Daemon.at(place).start()
    yield daemon
    if request.session.testsfailed:
        sys.stderr.write(f"\n--- {daemon.log}\n{daemon.tail()}\n")
    daemon.stop()


@pytest.fixture
def own(start_daemon: Any) -> Daemon:
    """A daemon of the test's own: for those who look at all that is stored."""
    daemon: Daemon = start_daemon()
    return daemon


@pytest.fixture
def make_raylet(request: pytest.FixtureRequest) -> Iterator[MakeRaylet]:
    """Attaches raylets to the module's daemon or another; arguments in capitals are their environment."""
    raylets: list[Raylet] = []
    folders = ExitStack()

    def make(daemon: Daemon | None = None, **options: Any) -> Raylet:
        environment = {name: options.pop(name) for name in tuple(options) if name.isupper()}
        socket = (daemon or request.getfixturevalue("node")).socket
        raylets.append(Raylet(folders.enter_context(open_folder()), socket, environment, **options))
        return raylets[-1].start()

    with folders:
        yield make
        for raylet in raylets:
            raylet.close()


@pytest.fixture
def raylet(make_raylet: MakeRaylet) -> Raylet:
    """One raylet on the module's daemon."""
    return make_raylet()


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a Ray that lives in a virtual environment, with a package ``below`` of its own."""
    folder = tmp_path_factory.mktemp("ray")
    venv = folder / "venv"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, venv], check=True)
    wheel = make_wheel(folder, "below", "1.0", source="where = 'below'\n")
    subprocess.run(
        [UV, "pip", "install", "-q", "--no-index", "--no-cache", "--python", venv, wheel], check=True
    )
    return os.fspath(venv / "bin/python")


@pytest.fixture
def web() -> Iterator[FileServer]:
    """A web server."""
    server = FileServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server with the bucket ``bucket``."""
    yield from serve_s3()
