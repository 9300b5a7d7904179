"""Tasks and actors in containers, on real Ray: every field that names an image, and those beside it."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import DRIVERS, STOCK, actor, ask, task
from daemons import Daemon
from field_asks import offline
from helpers import make_wheel, wait_until
from podman_fixtures import MakeImage
from podman_world import PodmanWorld
from rays import RayNode

pytestmark = [
    pytest.mark.podman,
    pytest.mark.skipif(STOCK, reason="stock fails with images as root, and composes them with nothing"),
]
SECRET = "canary \"q\" 'it' `id` $(id) \\ & | ünï ☃\nline 2\t$NOPE"
SEEN = """
import os, sys, envd_ground
names = ["A", "B", "PATH", "FROM_IMAGE", "PYTHONPATH", "RAY_AUTH_TOKEN_PATH", "ENVD_NODE_SAYS"]
names += ["VIRTUAL_ENV"]
answer = {name: os.environ.get(name) for name in names}
answer |= {"cwd": os.getcwd(), "pid": os.getpid(), "python": sys.executable}
answer |= {"ground": envd_ground.__version__}
answer |= {"dev": sys.flags.dev_mode, "inside": os.path.exists("/run/.containerenv")}
answer |= {"argv": open("/proc/self/cmdline").read().strip("\\0")}
"""


@pytest.fixture(scope="module")
def container_node(
    pythons: Callable[[str], Path], workspace: Path, podman_world: PodmanWorld, container_daemon: Daemon
) -> Iterator[RayNode]:
    """One cluster for all tests of this module."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir=workspace))
    environment = {
        **podman_world.variables,
        "RAY_ENVD_SOCKET": str(container_daemon.socket),
        "ENVD_NODE_SAYS": "hello",
        "PYTHONPATH": "/of/the/raylet",
    }
    node = RayNode(pythons("2.60.0"), folder, environment).start()
    yield node
    node.stop()


@pytest.fixture
def node(
    container_node: RayNode, container_daemon: Daemon, request: pytest.FixtureRequest
) -> Iterator[RayNode]:
    """The cluster; if the test fails, the daemon's last words are shown."""
    failures = request.session.testsfailed
    yield container_node
    if request.session.testsfailed > failures:
        sys.stderr.write(f"\n--- daemon\n{container_daemon.tail(40)}\n")


@pytest.fixture(scope="module")
def image(make_image: MakeImage) -> str:
    """One that is not there yet."""
    return make_image(
        "workers/app", {"envd-ground": "1.0"}, variables={"FROM_IMAGE": "yes", "PYTHONPATH": "/img"}
    )


def settled(world: PodmanWorld, seconds: float = 5.0) -> None:
    """No container is left, and none half made."""
    wait_until(lambda: not world.containers(), seconds, "the end of all containers", every=0.2)


def test_every_field_that_names_an_image(node: RayNode, image: str, podman_world: PodmanWorld) -> None:
    """Tasks and actors run in it, with their variables exactly, and nobody else reads these."""
    own = {"env_vars": {"A": SECRET, "B": "${A}!", "PATH": "/first:${PATH}"}}
    options = {"image": image, "run_options": ["--env", "A=not this", "--cpus 1", "--network=host"]}
    asks = [
        task(SEEN, {"image": image, **own}),
        actor(SEEN, {"image": {"uri": image, "cpus": 1.5}, **own}),
        task(SEEN, {"image_uri": image, **own}),
        actor(SEEN, {"container": options, **own}),
        task(SEEN, {"image": image, "py_executable": "env FROM_IMAGE=command python -X dev", **own}),
    ]
    reply = ask(node, *asks)
    for seen in reply.values:
        assert (seen["A"], seen["B"]) == (SECRET, f"{SECRET}!")
        assert seen["PATH"] == "/first:/opt/ray/bin:/usr/bin:/bin"
        assert (seen["PYTHONPATH"], seen["ENVD_NODE_SAYS"]) == ("/img", None)
        assert (seen["python"], seen["ground"], seen["inside"]) == ("/opt/ray/bin/python", "1.0", True)
        assert seen["RAY_AUTH_TOKEN_PATH"] == str(node.folder / "token")
        assert "canary" not in seen["argv"]
    assert [(seen["FROM_IMAGE"], seen["dev"]) for seen in reply.values[-2:]] == [
        ("yes", False),
        ("command", True),
    ]
    assert len({seen["pid"] for seen in reply.values}) == 5
    assert not [line for line in reply.output.splitlines() if "canary" in line and "RESULT" not in line]
    logs = (node.session / "logs").glob("*runtime_env*")
    assert "canary" not in "".join(log.read_text(errors="replace") for log in logs)
    settled(podman_world, 30)


def test_an_image_goes_with_every_other_field(
    node: RayNode, image: str, wheels: Path, workspace: Path, podman_world: PodmanWorld
) -> None:
    """Packages over the image's, the working dir of a job and of a task with its cwd, modules, a wheel."""
    folder, single = workspace / "image-job", workspace / "image-task"
    for each in (folder, single / "inside"):
        each.mkdir(parents=True)
    (folder / "data.txt").write_text("of the job")
    (single / "inside" / "data.txt").write_text("of the task")
    archive = shutil.make_archive(str(single / "made"), "zip", single, "inside")
    wheel = make_wheel(workspace / "image-dist", "envd-wheel", "3.1")
    module = workspace / "image-greeting" / "greeting"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("WORDS = 'good day'\n")
    code = SEEN + "answer['data'] = open('data.txt').read()\n"
    packages = code + "import envd_sample\nanswer['sample'] = envd_sample.__version__\n"
    job = code + "import greeting, envd_wheel\nanswer['modules'] = greeting.WORDS, envd_wheel.__version__\n"
    pip = {"packages": ["envd-sample==2.0", "envd-ground"], "pip_install_options": offline(wheels)}
    runtime_env = {"working_dir": str(folder), "py_modules": [str(module), str(wheel)], "image": image}
    reply = ask(
        node,
        task(job),
        actor(packages, {"pip": pip}),
        task(packages, {"working_dir": f"file://{archive}", "pip": pip}),
        init={"runtime_env": runtime_env},
    )
    plain, over, other = reply.values
    files = node.session / "runtime_resources" / "working_dir_files"
    for seen in reply.values:
        assert seen["inside"]
        assert seen["ground"] == "1.0"
        assert Path(seen["cwd"]).is_relative_to(files)
    assert (plain["data"], plain["modules"]) == ("of the job", ["good day", "3.1"])
    assert (over["data"], over["sample"]) == ("of the job", "2.0")
    assert (other["data"], other["sample"]) == ("of the task", "2.0")
    assert over["python"] == f"{over['VIRTUAL_ENV']}/bin/python"
    settled(podman_world, 30)


def test_ends_of_workers(
    node: RayNode, image: str, podman_world: PodmanWorld, container_daemon: Daemon
) -> None:
    """A kill takes the container along; a limit kills its worker only; what cannot start is an error."""
    payload = {
        "init": {"address": node.address, "log_to_driver": False},
        "image": {"image": image},
        "limited": {"image": {"uri": image, "memory": "500MiB"}},
        "broken": {"container": {"image": image, "run_options": ["--cap-drop=NO_SUCH_THING"]}},
        # Nobody asks for this image: there is no registry there.
        "denied": {"container": {"image": "127.0.0.1:1/none:1", "run_options": ["--privileged"]}},
    }
    answer: dict[str, Any] = node.run(DRIVERS / "container_driver.py", payload).value
    assert answer["kill"] < 5
    assert answer["limited"][0] in {"WorkerCrashedError", "OutOfMemoryError"}
    for error, text in answer["broken"]:
        assert error == "RuntimeEnvSetupError"
        assert "runtime_env['container'] cannot be started in its container" in text
        assert "NO_SUCH_THING" in text
    error, text = answer["denied"]
    assert error == "RuntimeEnvSetupError"
    assert "runtime_env['container'] is refused: '--privileged'" in text
    assert answer["well"] == "well"
    assert answer["stays"]
    # The job has ended, and its actor with it.
    settled(podman_world, 30)


def test_containers_go_with_their_raylet(node: RayNode, image: str, podman_world: PodmanWorld) -> None:
    """A raylet that is killed leaves none behind. The last test of this module: its cluster is gone."""
    process = node.spawn(["-c", _HOLD, image])
    try:
        wait_until(podman_world.containers, 60, "a worker in a container", every=0.2)
        os.kill(node.raylet_pid(), signal.SIGKILL)
        settled(podman_world, 10)
    finally:
        process.kill()
        process.communicate()


def test_an_ordinary_users_cluster(
    container_daemon: Daemon, rootless_world: PodmanWorld, pythons: Callable[[str], Path]
) -> None:
    """Root's daemon serves him, with his podman and his rights; his containers go with their workers."""
    user = rootless_world.user
    assert user is not None
    environment = {**rootless_world.variables, "RAY_ENVD_SOCKET": str(container_daemon.socket)}
    del environment["PATH"]  # the cluster has its own
    node = RayNode(pythons("2.60.0"), user.home / "c", environment, identity=rootless_world.identity)
    code = "import os; answer = [os.environ['A'], os.getuid(), os.path.exists('/run/.containerenv')]"
    # A limit that takes effect with cgroups v2 only is no reason to fail without.
    image = {"uri": "localhost/small:latest", "memory": "2GiB"}
    try:
        node.start()
        reply = ask(node, task(code, {"image": image, "env_vars": {"A": SECRET}}))
        assert reply.value == [SECRET, user.uid, True]
        settled(rootless_world, 30)
    finally:
        node.stop()


_HOLD = """
import sys, time, ray
ray.init()
@ray.remote(num_cpus=0)
class Held:
    def pid(self): import os; return os.getpid()
held = Held.options(runtime_env={"image": sys.argv[1]}).remote()
ray.get(held.pid.remote())
time.sleep(600)
"""
