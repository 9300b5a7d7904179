"""pip and uv fields, from the request to the worker that imports."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon
from helpers import make_wheel, wait_until
from package_world import make_sdist
from processes import clean_environment
from raylet import Env, MakeRaylet, Raylet
from sources import FileServer, left_over, make_zip


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small packages."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        make_wheel(folder, "tiny", version)
    make_wheel(folder, "two-words", "1.0")
    make_wheel(folder, "top", "1.0", requires=("tiny<2",))
    make_wheel(folder, "broken", "1.0", requires=("nowhere",))
    make_wheel(folder, "shadowed", "1.0")
    return folder


@pytest.fixture
def ray(make_raylet: MakeRaylet, interpreter: str) -> Raylet:
    """A raylet whose Ray lives in a virtual environment of its own."""
    return make_raylet(python=interpreter)


def pip(wheels: Path, *packages: str, **more: Any) -> dict[str, Any]:
    """A pip field that knows the local wheels only."""
    options = ["--no-index", "--find-links", str(wheels)]
    return {"pip": {"packages": list(packages), "pip_install_options": options, **more}}


def uv(wheels: Path, *packages: str, **more: Any) -> dict[str, Any]:
    """The same as a uv field."""
    options = ["--no-index", "--find-links", str(wheels)]
    return {"uv": {"packages": list(packages), "uv_pip_install_options": options, **more}}


def objects_of(daemon: Daemon, kind: str = "python") -> list[dict[str, Any]]:
    """What ``ray-envd ls`` lists of a kind."""
    done = subprocess.run(
        [sys.executable, "-m", "ray_envd", "ls", "--json", "--socket", str(daemon.socket)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return [each for each in json.loads(done.stdout) if each["kind"] == kind]


@pytest.mark.parametrize("field", [pip, uv])
def test_a_worker_in_an_environment(ray: Raylet, wheels: Path, field: Any) -> None:
    """It imports what was asked for and all that Ray's interpreter has, as if the env were activated."""
    created = ray.prepared(field(wheels, "top"))
    code = """
import below, os, shutil, subprocess, sys, tiny, top
print(top.__version__, tiny.__version__, below.where)
print(sys.executable == os.environ["VIRTUAL_ENV"] + "/bin/python")
print(os.environ["PATH"].split(":")[0] == os.environ["VIRTUAL_ENV"] + "/bin")
print(shutil.which("python") == sys.executable)
child = subprocess.run(["python", "-c", "import top, below; print('child')"], capture_output=True, text=True)
print(child.stdout, end="")
"""
    assert ray.run(created, code).splitlines() == ["1.0 1.0 below", "True", "True", "True", "child"]


def test_the_same_set_is_one_object(node: Daemon, ray: Raylet, wheels: Path) -> None:
    """Order, spelling, pinning, and which of the two fields make no difference on disk."""
    specs: list[Env] = [
        pip(wheels, "two-words", "tiny==2.0"),
        pip(wheels, "tiny==2.0", "two-words"),
        pip(wheels, "Two_Words==1.0", "TINY == 2.0"),
        uv(wheels, "tiny>=2", "two.words"),
    ]
    before = len(objects_of(node))
    contexts = [ray.prepared(spec).fields for spec in specs]
    assert len({context["py_executable"] for context in contexts}) == 1
    assert len(objects_of(node)) == before + 1


def test_two_versions_at_once(ray: Raylet, wheels: Path) -> None:
    """Conflicting pins of two jobs are two environments, side by side."""
    for version in ("1.0", "2.0"):
        created = ray.prepared(pip(wheels, f"tiny=={version}"))
        assert ray.run(created, "import tiny; print(tiny.__version__)") == version


@pytest.mark.parametrize("field", [pip, uv])
def test_nothing_that_the_interpreter_has_is_installed(ray: Raylet, tmp_path: Path, field: Any) -> None:
    """A requirement that is satisfied already is used from below, though nobody offers the package."""
    created = ray.prepared(field(tmp_path, "below>=1"))
    where = Path(ray.run(created, "import below; print(below.__file__)"))
    assert where.is_relative_to(Path(ray.python).parent.parent)
    folders = ray.run(created, "import sys; print(*(p for p in sys.path if 'objects-v1' in p), sep=chr(10))")
    (site,) = map(Path, folders.splitlines())
    assert site.is_dir()
    assert not list(site.glob("below*"))


def test_a_requirements_file_of_the_working_dir(ray: Raylet, wheels: Path, tmp_path: Path) -> None:
    """``-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/…`` names a file of the package that is being prepared."""
    text = f"--no-index\n--find-links {wheels}\ntiny==1.0\n"
    package = make_zip(tmp_path / "with.zip", {"requirements.txt": text, "mine.py": "where = 'wd'"})
    env = {
        "working_dir": package.as_uri(),
        "pip": ["-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/requirements.txt"],
    }
    created = ray.prepared(env)
    assert ray.run(created, "import tiny, mine; print(tiny.__version__, mine.where)") == "1.0 wd"


def test_what_is_built_outlives_the_daemon(start_daemon: Any, make_raylet: MakeRaylet, wheels: Path) -> None:
    """After a restart another session's request is a hit: nothing is resolved, built or looked up."""
    daemon = start_daemon()
    raylet, where = make_raylet(daemon), "import tiny; print(tiny.__file__)"
    first = raylet.run(raylet.prepared(pip(wheels, "tiny==1.0")), where)
    daemon.stop()
    daemon.start()
    raylet = make_raylet(daemon)
    second = raylet.run(raylet.prepared(pip(wheels, "tiny==1.0")), where)
    assert second == first
    assert daemon.stats().builds == 0


def test_values_of_env_vars(ray: Raylet) -> None:
    """Quotes, line ends, unicode and dollars reach the worker as Ray's users know it, and run nothing."""
    values = {
        "PLAIN": "a b  c",
        "QUOTES": 'it\'s "quoted" \\ `id` $(id) ; & | > <',
        "LINES": "one\ntwo\n",
        "UNICODE": "ü → 你好 🎉",
        "EMPTY": "",
        "REFERS": "${PLAIN}:$HOME",
        "DOLLAR": "costs $5 and 100%",
        "EQUALS": "a=b=c",
        "NOT-A-SHELL-NAME": "x'y",
    }
    created = ray.prepared({"env_vars": values})
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(ray.run(created, code))
    for name in ("PLAIN", "QUOTES", "LINES", "UNICODE", "EMPTY", "EQUALS", "NOT-A-SHELL-NAME"):
        assert seen[name] == values[name], name
    assert seen["REFERS"] == f"a b  c:{ray.folder}"


def test_names_that_a_shell_would_take_apart(ray: Raylet, tmp_path: Path, wheels: Path) -> None:
    """A package's name with spaces, quotes and a command in it is a folder like any other."""
    package = make_zip(tmp_path / "it's a $(touch pwned) name.zip", {"mine.py": "where = 'here'"})
    created = ray.prepared({"working_dir": package.as_uri()})
    assert ray.run(created, "import mine; print(mine.where)") == "here"
    assert list(ray.folder.rglob("pwned")) == []


def test_a_py_executable_of_the_users(ray: Raylet) -> None:
    """A command with arguments runs the worker; what a shell would do with it is not done."""
    created = ray.prepared({"py_executable": f"{ray.python} -X 'utf8=1' -W ignore"})
    assert ray.run(created, "import sys; print(sys.flags.utf8_mode, sys.warnoptions)") == "1 ['ignore']"
    harmless = ray.prepared({"py_executable": f"{ray.python} ; touch {ray.folder}/pwned ;"})
    with pytest.raises(AssertionError):
        ray.run(harmless, "print(1)")
    assert not (ray.folder / "pwned").exists()


def test_what_cannot_be_resolved(node: Daemon, ray: Raylet, wheels: Path) -> None:
    """The resolver's own words reach the user within one attempt, and nothing is left."""
    for env in (pip(wheels, "broken"), uv(wheels, "broken"), pip(wheels, "tiny>7")):
        message = ray.refused(env)
        assert "could not be resolved" in message
        assert "nowhere" in message or "tiny>7" in message
        assert "full log: " in message
    assert left_over(node.store) == []
    assert ray.setup_log().count("attempt failed") == 0


def test_a_failure_that_passes(make_raylet: MakeRaylet, interpreter: str, tmp_path: Path) -> None:
    """What fails for a while is tried again and succeeds within one request."""
    package = make_zip(tmp_path / "late.zip", {"m.py": ""})
    raylet = make_raylet(python=interpreter, RUNTIME_ENV_RETRY_TIMES="50", RUNTIME_ENV_RETRY_INTERVAL_MS="1")
    web = FileServer()
    web.status = 503
    try:
        env = {"py_modules": [f"{web.url}/late.zip"]}

        def mend() -> None:
            wait_until(lambda: web.asked, 20, "the first attempt")
            web.files["late.zip"] = package.read_bytes()
            web.status = None

        thread = threading.Thread(target=mend)
        thread.start()
        assert raylet.create(env).ok
        thread.join()
    finally:
        web.close()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"pip": 7}, ["pip"]),
        ({"pip": {"packages": "tiny"}}, ["pip", "packages"]),
        ({"pip": {"packages": ["tiny"], "no_such_option": 1}}, ["pip", "no_such_option"]),
        ({"uv": {"packages": ["tiny"], "uv_checks": True}}, ["uv", "uv_checks"]),
        ({"pip": ["tiny"], "uv": ["tiny"]}, ["pip", "uv"]),
        ({"pip": {"packages": ["tiny"], "pip_install_options": ["--target", "/x"]}}, ["--target"]),
        ({"pip": ["tiny", 5]}, ["pip"]),
        ({"uv": {"packages": [], "uv_check": "yes"}}, ["uv_check"]),
        ({"pip": ["-r /nowhere/requirements.txt"]}, ["/nowhere/requirements.txt"]),
    ],
    ids=json.dumps,
)
def test_a_field_of_a_wrong_form(ray: Raylet, env: Env, words: list[str]) -> None:
    """It is named with its option, in one sentence and without a traceback."""
    message = ray.refused(env)
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert "nexpected" not in message


def test_unused_environments_go_when_the_raylets_limit_is_passed(
    make_raylet: MakeRaylet, interpreter: str, tmp_path: Path
) -> None:
    """RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB=0 for one cluster; another's environments stay."""
    make_wheel(tmp_path, "limited", "1.0")
    make_wheel(tmp_path, "unlimited", "1.0")
    limited = make_raylet(python=interpreter, RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB="0")
    free = make_raylet(python=interpreter)
    gone, stays = (
        Path(raylet.run(raylet.prepared(pip(tmp_path, name)), f"import {name}; print({name}.__file__)"))
        for raylet, name in ((limited, "limited"), (free, "unlimited"))
    )
    assert limited.delete(pip(tmp_path, "limited"))
    assert free.delete(pip(tmp_path, "unlimited"))
    wait_until(lambda: not os.path.lexists(gone), 5, "the unused environment's end")
    assert os.path.lexists(stays)
    assert limited.create(pip(tmp_path, "limited")).ok


def test_a_build_that_fails_tells_why(node: Daemon, ray: Raylet, tmp_path: Path) -> None:
    """The last words of the package's build reach the user, all of them are in a log that he is told of."""
    make_sdist(tmp_path, "fails", "1.0", prologue="raise SystemExit('the reason why it fails')")
    message = ray.refused(pip(tmp_path, "fails"))
    assert "could not be installed" in message
    assert "the reason why it fails" in message
    log = Path(message.partition("full log: ")[2].strip())
    assert "the reason why it fails" in log.read_text()
    assert left_over(node.store) == []
