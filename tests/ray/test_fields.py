"""Each field of a runtime env means the same as on stock Ray. One driver asks for most of them at once."""

import concurrent.futures
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from asking import SETUP_ERROR, STOCK, Reply, actor, ask, task
from field_asks import VERSION, field_asks, offline
from helpers import make_wheel, wait_until
from rays import RayNode

ENVIRONMENT = {"RAY_RUNTIME_ENV_LOG_TO_DRIVER_ENABLED": "1", "ENVD_NODE_SAYS": "hello"}

EXTRA_LOG = "envd-extra.log"


@pytest.fixture(scope="module")
def slow_sdist(workspace: Path) -> Path:
    """A source distribution that takes a minute to build."""
    folder = workspace / "slow"
    if not folder.exists():
        folder.mkdir()
        (folder / "setup.py").write_text(
            "import time; time.sleep(60)\n"
            "from setuptools import setup; setup(name='envd-slow', version='1.0')\n"
        )
    return folder


@pytest.fixture(scope="module")
def asks(wheels: Path, workspace: Path, module_node: RayNode) -> dict[str, dict[str, Any]]:
    """What the one driver asks, by name."""
    return field_asks(module_node.python, wheels, workspace / f"zips-{module_node.mark}")


@pytest.fixture(scope="module")
def answers(module_node: RayNode, asks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The answers by name."""
    reply = ask(module_node, *asks.values())
    assert len(reply.answers) == len(asks), reply.answers
    return dict(zip(asks, reply.answers, strict=True))


def value(answers: dict[str, Any], name: str) -> Any:
    """An answer that is a value."""
    assert "value" in answers[name], answers[name]
    return answers[name]["value"]


@pytest.mark.parametrize("name", ["env_vars", "env_vars_actor"])
def test_env_vars_reach_tasks_and_actors_expanded(node: RayNode, answers: dict[str, Any], name: str) -> None:
    """Variables are set, and ${NAME} stands for what the node's worker would see."""
    a, path, node_says, _ = value(answers, name)
    assert a == "1"
    assert path.startswith("/first:")
    assert str(node.python.parent) in path
    assert node_says == "hello!"


def test_child_tasks_inherit_and_override_env_vars(node: RayNode, answers: dict[str, Any]) -> None:
    """A child task has its parent's variables; its own win."""
    assert value(answers, "inherited") == [["parent", "parent"], ["parent", "own"]]


def test_plain_task_runs_in_the_interpreter_of_the_node(node: RayNode, answers: dict[str, Any]) -> None:
    """Without a runtime env the worker is that of the raylet's own Python."""
    executable, prefix, _ = value(answers, "plain")
    assert Path(executable) == node.python
    assert Path(prefix) == node.python.parent.parent


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("pip_list", "1.0"),
        ("pip_dict", "2.0"),
        ("pip_actor", "2.0"),
        ("uv", "1.0"),
        ("uv_check", "1.0"),
        ("dependency", "1.0"),
        ("command", "2.0"),
        ("pip_with_env_vars", "1.0!"),
        ("no_time_out", "1.0"),
    ],
)
def test_packages_are_those_asked_for(
    node: RayNode, answers: dict[str, Any], name: str, version: str
) -> None:
    """List and dict, pip and uv, task, actor and subprocess: all at once, each with its own version."""
    assert value(answers, name) == version


def test_ray_and_its_dependencies_stay_importable(
    node: RayNode, answers: dict[str, Any], ray_version: str
) -> None:
    """An environment of pip's still has the node's Ray."""
    assert value(answers, "ray_below")[0] == ray_version


def test_py_executable_starts_the_worker(node: RayNode, answers: dict[str, Any]) -> None:
    """The worker runs by the command given, with its flags."""
    assert value(answers, "py_executable") == 1


def test_an_actor_without_eager_install_starts(node: RayNode, answers: dict[str, Any]) -> None:
    """eager_install=False only means later."""
    assert value(answers, "lazy_actor") == 1


def test_archives_of_a_single_task(node: RayNode, answers: dict[str, Any]) -> None:
    """A task's own working_dir and py_modules may be zip files; what is inside their top folder counts."""
    name, data, place = value(answers, "zips")
    assert (name, data) == ("zipped", "from a zip")
    assert Path(place).is_relative_to(node.session / "runtime_resources" / "working_dir_files")


def test_job_level_environment(node: RayNode, workspace: Path, wheels: Path) -> None:
    """ray.init with local folders, a wheel, pip, variables and a set-up hook: all reach every worker."""
    folder, module, wheel = _sources(workspace / f"job-{node.mark}")
    code = """
        import os, sys, pathlib
        import greeting, envd_wheel, envd_sample, beside
        answer = {
            "cwd": os.getcwd(), "files": sorted(set(os.listdir(".")) - {"__pycache__"}),
            "data": pathlib.Path("data.txt").read_text(),
            "module": greeting.WORDS, "wheel": envd_wheel.__version__, "pip": envd_sample.__version__,
            "beside": beside.__file__, "job": os.environ["ENVD_JOB"], "own": os.environ.get("ENVD_OWN"),
            "hook": os.environ.get("ENVD_HOOK"),
        }
        """
    code = textwrap.dedent(code)
    runtime_env = {
        "working_dir": str(folder),
        "excludes": ["skipped"],
        "py_modules": [str(module), str(wheel)],
        "pip": [f"--find-links {wheels}", "--no-index", "envd-sample==2.0"],
        "env_vars": {"ENVD_JOB": "job"},
        "worker_process_setup_hook": "beside.hook",
    }
    own = {"env_vars": {"ENVD_OWN": "own"}}
    reply = ask(node, task(code), actor(code), task(code, own), init={"runtime_env": runtime_env})
    plain, in_actor, with_own = reply.values
    assert plain["files"] == ["beside.py", "data.txt", "inner"]
    assert (plain["data"], plain["module"], plain["wheel"], plain["pip"]) == (
        "data",
        "good day",
        "3.1",
        "2.0",
    )
    assert (plain["job"], plain["hook"], plain["own"]) == ("job", "hooked", None)
    assert plain["beside"] == f"{plain['cwd']}/beside.py"
    assert Path(plain["cwd"]).is_relative_to(node.session / "runtime_resources" / "working_dir_files")
    assert in_actor == plain
    assert with_own == {**plain, "own": "own"}


def _sources(root: Path) -> tuple[Path, Path, Path]:
    """A working folder, a module's folder and a wheel."""
    folder, module = root / "work", root / "greeting"
    (folder / "inner").mkdir(parents=True)
    (folder / "skipped").mkdir()
    (folder / "inner" / "empty.txt").touch()
    (folder / "skipped" / "big.bin").touch()
    (folder / "data.txt").write_text("data")
    (folder / "beside.py").write_text("import os\ndef hook():\n    os.environ['ENVD_HOOK'] = 'hooked'\n")
    module.mkdir()
    (module / "__init__.py").write_text("WORDS = 'good day'\n")
    return folder, module, make_wheel(root / "dist", "envd-wheel", "3.1")


def test_what_one_job_writes_the_next_does_not_see(node: RayNode, workspace: Path) -> None:
    """Two jobs of different content have folders of their own, and a job's own files are writable."""
    for number in (1, 2):
        folder = workspace / f"write-{node.mark}-{number}"
        folder.mkdir()
        (folder / "number.txt").write_text(str(number))
        code = "import os; answer = sorted(os.listdir('.')); open('left', 'w').close()"
        assert ask(node, task(code), init={"runtime_env": {"working_dir": str(folder)}}).value == [
            "number.txt"
        ]


def test_failing_package_tells_the_user_which(node: RayNode, wheels: Path) -> None:
    """The resolver's words are in the RuntimeEnvSetupError, and a permanent failure is not tried thrice."""
    env = {"pip": {"packages": ["envd-sample==9.9"], "pip_install_options": offline(wheels)}}
    error = ask(node, task("answer = 1", env)).error
    assert error["error"] == SETUP_ERROR
    assert "envd-sample==9.9" in error["message"]
    assert STOCK or error["seconds"] < 8


def test_set_up_time_out_is_the_waiters_own(node: RayNode, slow_sdist: Path) -> None:
    """After setup_timeout_seconds the user gets an error that says so, long before the build would end."""
    env = {"pip": [str(slow_sdist)], "config": {"setup_timeout_seconds": 2}}
    error = ask(node, task("answer = 1", env)).error
    assert error["error"] == SETUP_ERROR
    assert "within the timeout of 2 seconds" in error["message"]
    assert error["seconds"] < 25


def test_changing_rays_own_version_is_an_error(node: RayNode) -> None:
    """A requirement that would replace the node's Ray is refused."""
    error = ask(node, task("answer = 1", {"pip": ["ray==2.50.0"]})).error
    assert error["error"] == SETUP_ERROR
    assert "ray version" in error["message"].lower()


def test_two_drivers_with_conflicting_pins_at_once(node: RayNode, wheels: Path) -> None:
    """Jobs that run side by side each import their own version."""

    def drive(version: str) -> Reply:
        runtime_env = {"pip": [f"--find-links {wheels}", "--no-index", f"envd-sample=={version}"]}
        return ask(node, task(VERSION), actor(VERSION), init={"runtime_env": runtime_env})

    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, second = pool.map(drive, ("1.0", "2.0"))
    assert (first.values, second.values) == (["1.0"] * 2, ["2.0"] * 2)


def test_set_up_lines_reach_the_driver(node: RayNode, workspace: Path) -> None:
    """Where the cluster sends set-up logs to drivers, the user reads what is being installed."""
    folder = workspace / "told"
    make_wheel(folder, "envd-told", "1.0")
    env = {"pip": [f"--find-links {folder}", "--no-index", "envd-told==1.0"]}
    reply = ask(node, task("answer = 1", env), init={"runtime_env": env}, linger=3)
    assert reply.value == 1
    lines = [line for line in reply.output.splitlines() if "pid=runtime_env" in line]
    assert any("envd-told" in line for line in lines), reply.output


def test_eager_install_prepares_before_the_first_task(node: RayNode, workspace: Path) -> None:
    """With eager_install (the default) a job's environment is made although no task asks for it.

    What is done for it stands in the job's log, and in each file of config.log_files beside that.
    """
    folder = workspace / "eager"
    make_wheel(folder, "envd-eager", "1.0")
    env = {
        "pip": [f"--find-links {folder}", "--no-index", "envd-eager==1.0"],
        "config": {"log_files": [EXTRA_LOG]},
    }
    logs = node.session / "logs"

    def told() -> bool:
        return any("envd-eager" in log.read_text() for log in logs.glob("runtime_env_setup-*.log"))

    process = node.spawn(["-c", _CONNECT, json.dumps(env)])
    try:
        wait_until(told, 30, "the set-up of an environment that no task needs", every=0.2)
        assert "envd-eager" in (logs / EXTRA_LOG).read_text()
    finally:
        process.kill()
        process.communicate()


_CONNECT = """
import json, sys, time, ray
ray.init(runtime_env=json.loads(sys.argv[1]))
time.sleep(120)
"""
