"""One ask for each field of a runtime env, and for some of them together."""

import shutil
from pathlib import Path
from typing import Any

from asking import actor, task

VERSION = "import envd_sample; answer = envd_sample.__version__"
WHERE = "import os, sys; answer = [sys.executable, sys.prefix, os.environ.get('VIRTUAL_ENV')]"
CHILD = """
import ray
@ray.remote(num_cpus=0)
def child():
    import os
    return os.environ.get("ENVD_A"), os.environ.get("ENVD_B")
own = child.options(runtime_env={"env_vars": {"ENVD_B": "own"}})
answer = [ray.get(child.remote()), ray.get(own.remote())]
"""


def offline(folder: Path) -> list[str]:
    """Options with which only a folder's wheels count."""
    return ["--no-index", "--find-links", str(folder)]


def _zips(root: Path) -> tuple[Path, Path]:
    """A working folder and a module as archives, each with a top folder as Ray wants them."""
    (root / "work").mkdir(parents=True)
    (root / "work" / "data.txt").write_text("from a zip")
    (root / "top" / "zipped").mkdir(parents=True)
    (root / "top" / "zipped" / "__init__.py").write_text("NAME = 'zipped'\n")
    made = [shutil.make_archive(str(root / f"{top}-made"), "zip", root, top) for top in ("work", "top")]
    return Path(made[0]), Path(made[1])


def field_asks(python: Path, wheels: Path, archives: Path) -> dict[str, dict[str, Any]]:
    """What one driver asks, by name; archives are made in a folder that is not there yet."""
    links = [f"--find-links {wheels}", "--no-index"]
    zips = _zips(archives)
    sees = {"env_vars": {"ENVD_A": "1", "ENVD_PATH": "/first:${PATH}", "ENVD_NODE": "${ENVD_NODE_SAYS}!"}}
    environ = "import os; answer = [os.environ[n] for n in ('ENVD_A', 'ENVD_PATH', 'ENVD_NODE', 'PATH')]"
    pip_2 = {"packages": ["envd-sample==2.0"], "pip_check": True, "pip_install_options": offline(wheels)}
    uv_1 = {"packages": ["envd-sample==1.0"], "uv_pip_install_options": offline(wheels)}
    return {
        "plain": task(WHERE),
        "env_vars": task(environ, sees),
        "env_vars_actor": actor(environ, sees),
        "inherited": task(CHILD, {"env_vars": {"ENVD_A": "parent", "ENVD_B": "parent"}}),
        "pip_list": task(VERSION, {"pip": [*links, "envd-sample==1.0"]}),
        "pip_dict": task(VERSION, {"pip": pip_2}),
        "pip_actor": actor(VERSION, {"pip": pip_2}),
        "pip_with_env_vars": task(
            VERSION + "; import os; answer += os.environ['ENVD_A']",
            {"pip": [*links, "envd-sample==1.0"], "env_vars": {"ENVD_A": "!"}},
        ),
        "uv": task(VERSION, {"uv": uv_1}),
        "uv_check": task(VERSION, {"uv": {**uv_1, "uv_check": True}}),
        "dependency": task(
            "import envd_client, envd_sample; answer = envd_sample.__version__",
            {"pip": [*links, "envd-client"]},
        ),
        "command": task(
            "import subprocess; answer = subprocess.check_output("
            "['python', '-c', 'import envd_sample, ray; print(envd_sample.__version__)'], text=True).strip()",
            {"pip": pip_2},
        ),
        "ray_below": task(
            "import ray, click, envd_sample; answer = [ray.__version__, ray.__file__]", {"pip": pip_2}
        ),
        "py_executable": task(
            "import sys; answer = sys.flags.utf8_mode", {"py_executable": f"{python} -X utf8=1"}
        ),
        "zips": task(
            "import os, zipped; answer = [zipped.NAME, open('data.txt').read(), os.getcwd()]",
            {"working_dir": f"file://{zips[0]}", "py_modules": [f"file://{zips[1]}"]},
        ),
        "no_time_out": task(
            VERSION, {"pip": [*links, "envd-sample==1.0"], "config": {"setup_timeout_seconds": -1}}
        ),
        "lazy_actor": actor("answer = 1", {"config": {"eager_install": False}, "env_vars": {"ENVD_D": "1"}}),
    }
