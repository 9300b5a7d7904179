"""Real Ray: installations attached for this session alone, daemons, one-node clusters."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asking import STOCK, VERSIONS
from daemons import Daemon
from helpers import make_wheel
from podman_world import PodmanWorld
from rays import ROOT, RayNode, install_ray

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Ray."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def pythons() -> Iterator[Callable[[str], Path]]:
    """Gives the Python of a Ray version's private installation, attached unless the tests run on stock."""
    folder = ROOT / ".work" / f"test-{os.getpid()}"
    made: dict[str, Path] = {}

    def python(version: str) -> Path:
        if version not in made:
            made[version] = install_ray(version, folder / f"ray-{version}")
            if not STOCK:
                attach(made[version])
        return made[version]

    yield python
    shutil.rmtree(folder, ignore_errors=True)


def attach(python: Path, *arguments: str) -> None:
    """Runs `ray-envd attach` on an installation."""
    command = [sys.executable, "-m", "ray_envd", "attach", "--python", python, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A short folder for the whole session."""
    folder = Path(tempfile.mkdtemp(prefix="rr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def wheels(workspace: Path) -> Path:
    """A folder of tiny wheels: envd-sample 1.0 and 2.0, envd-client which needs the first."""
    folder = workspace / "wheels"
    make_wheel(folder, "envd-sample", "1.0")
    make_wheel(folder, "envd-sample", "2.0")
    make_wheel(folder, "envd-client", "1.0", requires=("envd-sample<2",))
    return folder


@pytest.fixture(scope="session")
def shared_daemon(workspace: Path) -> Iterator[Daemon | None]:
    """One daemon for all modules that do it no harm; None on stock."""
    if STOCK:
        yield None
        return
    folder = workspace / "daemon"
    folder.mkdir()
    daemon = Daemon.at(folder).start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def container_daemon(podman_folder: Path, podman_world: PodmanWorld) -> Iterator[Daemon]:
    """A daemon of the module's own, where every user reaches it; its podman ends before the world does."""
    folder = Path(tempfile.mkdtemp(prefix="d", dir=podman_folder))
    folder.chmod(0o755)
    daemon = Daemon.at(folder).start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module", params=VERSIONS)
def ray_version(request: pytest.FixtureRequest) -> str:
    """Each Ray version in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def module_node(
    ray_version: str,
    pythons: Callable[[str], Path],
    workspace: Path,
    shared_daemon: Daemon | None,
    request: pytest.FixtureRequest,
) -> Iterator[RayNode]:
    """A cluster for the tests of one module, which may set NODE = {fields of RayNode} and ENVIRONMENT."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir=workspace))
    environment = dict(getattr(request.module, "ENVIRONMENT", {}))
    if shared_daemon is not None:
        environment["RAY_ENVD_SOCKET"] = str(shared_daemon.socket)
    fields = getattr(request.module, "NODE", {})
    node = RayNode(pythons(ray_version), folder, environment, **fields).start()
    yield node
    node.stop()


@pytest.fixture
def node(
    module_node: RayNode, shared_daemon: Daemon | None, request: pytest.FixtureRequest
) -> Iterator[RayNode]:
    """The module's cluster; if the test fails, the daemon's last words are shown."""
    failures = request.session.testsfailed
    yield module_node
    if shared_daemon is not None and request.session.testsfailed > failures:
        sys.stderr.write(f"\n--- daemon\n{shared_daemon.tail(40)}\n")


@pytest.fixture
def start_node(
    pythons: Callable[[str], Path], short_tmp: Path, shared_daemon: Daemon | None
) -> Iterator[Callable[..., RayNode]]:
    """Starts clusters for one test, on the shared daemon unless their environment names another."""
    nodes: list[RayNode] = []

    def start(version: str, environment: dict[str, str] | None = None, **fields: object) -> RayNode:
        folder = short_tmp / f"n{len(nodes)}"
        # Without it a link would start the machine's own daemon.
        default = {"RAY_ENVD_SOCKET": str(shared_daemon.socket)} if shared_daemon else {}
        node = RayNode(pythons(version), folder, {**default, **(environment or {})}, **fields)  # type: ignore[arg-type]  # fields by name
        nodes.append(node)
        return node.start()

    yield start
    for each in nodes:
        each.stop()
