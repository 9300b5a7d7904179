"""Jobs, Ray Client and the state API: the other callers of a node's runtime-env agent."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asking import STOCK, actor, ask, task
from daemons import Daemon
from helpers import wait_until
from rays import RayNode

from ray_envd.agent.pb import admin_pb2

NODE = {"dashboard": True}
#: What Ray's dashboard answers, with nothing begun.
_NO_AGENT = "No available agent to submit job"

ENTRYPOINT = """
import os, ray, envd_sample, inside
ray.init()

@ray.remote(num_cpus=0)
def there():
    import envd_sample, inside
    return envd_sample.__version__, inside.NAME, os.environ["ENVD_JOB"], os.path.exists("entrypoint.py")

print("DRIVER", envd_sample.__version__, inside.NAME)
print("TASK", *ray.get(there.remote()))
"""


def ray_command(node: RayNode, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a command of this Ray against a node."""
    environment = {**node.variables(), "RAY_ADDRESS": node.dashboard_address}
    command = [str(node.python), "-m", "ray.scripts.scripts", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=node.folder,
        check=False,
    )


def submitted(node: RayNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, once an agent for jobs is up: on a busy machine Ray does not wait long enough."""

    def tried() -> subprocess.CompletedProcess[str] | None:
        done = ray_command(node, "job", "submit", *arguments)
        return None if _NO_AGENT in done.stdout + done.stderr else done

    done: subprocess.CompletedProcess[str] = wait_until(tried, 90, "an agent for jobs")
    return done


@pytest.mark.parametrize("field", ["pip", "uv"])
def test_a_submitted_job_runs_in_its_environment(
    node: RayNode, workspace: Path, wheels: Path, field: str
) -> None:
    """`ray job submit` with a working_dir and packages: driver and tasks both have them."""
    folder = workspace / f"job-{node.mark}-{field}"
    folder.mkdir()
    (folder / "entrypoint.py").write_text(ENTRYPOINT)
    (folder / "inside.py").write_text("NAME = 'inside'\n")
    options = ["--no-index", "--find-links", str(wheels)]
    packages = {
        "pip": {"packages": ["envd-sample==2.0"], "pip_install_options": options},
        "uv": {"packages": ["envd-sample==2.0"], "uv_pip_install_options": options},
    }
    runtime_env = json.dumps({field: packages[field], "env_vars": {"ENVD_JOB": "job"}})
    arguments = ["--working-dir", str(folder), "--runtime-env-json", runtime_env]
    done = submitted(node, *arguments, "--", "python", "entrypoint.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DRIVER 2.0 inside" in done.stdout
    assert "TASK 2.0 inside job True" in done.stdout


def test_a_job_that_cannot_be_set_up_fails_with_the_reason(node: RayNode, wheels: Path) -> None:
    """The job's status holds the resolver's words."""
    options = ["--no-index", "--find-links", str(wheels)]
    runtime_env = {"pip": {"packages": ["envd-sample==9.9"], "pip_install_options": options}}
    done = submitted(node, "--runtime-env-json", json.dumps(runtime_env), "--", "python", "-c", "'print(1)'")
    assert done.returncode != 0
    assert "envd-sample==9.9" in done.stdout + done.stderr


def test_ray_client_gets_its_environment(node: RayNode, workspace: Path, wheels: Path) -> None:
    """A remote client's local folder, packages and variables reach its tasks and actors."""
    folder = workspace / f"client-{node.mark}"
    folder.mkdir()
    (folder / "data.txt").write_text("sent")
    runtime_env = {
        "working_dir": str(folder),
        "pip": [f"--find-links {wheels}", "--no-index", "envd-sample==1.0"],
        "env_vars": {"ENVD_CLIENT": "yes"},
    }
    code = "import os, envd_sample as s; from pathlib import Path\n"
    code += "answer = [s.__version__, Path('data.txt').read_text(), os.environ['ENVD_CLIENT']]"
    init = {"runtime_env": runtime_env}
    reply = ask(node, task(code), actor(code), address=node.client_address, init=init)
    assert reply.values == [["1.0", "sent", "yes"]] * 2


def test_ray_client_is_told_why_it_cannot_connect(node: RayNode, wheels: Path) -> None:
    """A client whose job-level environment cannot be made reads why; Ray takes 30 s to tell."""
    env = {"pip": [f"--find-links {wheels}", "--no-index", "envd-sample==9.9"]}
    (answer,) = ask(node, task("answer = 1"), address=node.client_address, init={"runtime_env": env}).answers
    assert "envd-sample==9.9" in answer["message"]


def test_the_state_api_lists_environments(node: RayNode, wheels: Path) -> None:
    """`ray list runtime-envs` shows what was made and what failed, with references and the error."""
    good, bad = {"env_vars": {"ENVD_LISTED": "good"}}, {"pip": ["--no-index", "envd-listed==9.9"]}
    process = node.spawn(["-c", _KEEP, json.dumps(good), json.dumps(bad)])
    try:
        held = wait_until(lambda: _listed(node, "ENVD_LISTED"), 40, "the held env in the list", every=0.5)
        failed = wait_until(lambda: _listed(node, "envd-listed"), 40, "the failed env in the list", every=0.5)
    finally:
        process.kill()
        process.communicate()
    assert (held["success"], held["ref_cnt"] >= 1) == (True, True)
    assert held["creation_time_ms"]
    assert failed["success"] is False
    assert "envd-listed" in failed["error"]


_KEEP = """
import json, sys, time, ray
ray.init()
@ray.remote(num_cpus=0)
class Kept:
    def there(self): return 1
good, bad = map(json.loads, sys.argv[1:])
kept = Kept.options(runtime_env=good).remote()
ray.get(kept.there.remote())
refused = Kept.options(runtime_env=bad).remote()
time.sleep(120)
"""


def _listed(node: RayNode, words: str) -> dict[str, Any] | None:
    done = ray_command(node, "list", "runtime-envs", "--format", "json", "--detail", timeout=60)
    rows = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip().startswith("[") else []
    found = [row for row in rows if words in json.dumps(row["runtime_env"]) and row["success"] is not None]
    return found[0] if found else None


@pytest.mark.skipif(STOCK, reason="stock Ray has no daemon")
def test_the_daemon_knows_the_session(node: RayNode, shared_daemon: Daemon) -> None:
    """The raylet is a connected session of the daemon, with its version and its folder."""
    with shared_daemon.admin() as admin:
        sessions = admin.List(admin_pb2.ListRequest()).sessions
    (session,) = [each for each in sessions if Path(each.session_dir) == node.session]
    assert session.connected
    assert session.raylet_pid == node.raylet_pid()
