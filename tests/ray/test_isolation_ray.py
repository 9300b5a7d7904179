"""Two clusters of real Ray on one daemon with the same package and environment: neither sees the other."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uv
from asking import STOCK, actor, ask, task
from daemons import Daemon
from helpers import make_wheel, wait_until
from rays import RayNode

from ray_envd.agent.pb import admin_pb2

pytestmark = pytest.mark.skipif(STOCK, reason="stock gives every cluster environments of its own")
VERSION = "2.60.0"
SPOIL = """
import os, subprocess, sys, envd_sample, local
open("local.py", "w").write("WORDS = 'spoilt'")
os.remove("data.txt")
open("result.txt", "w").write("42")
os.makedirs("__pycache__", exist_ok=True)
subprocess.run([sys.executable, "-m", "pip", "install", "-q", *{options}, "envd-sample==2.0"], check=True)
subprocess.run(["pip", "install", "-q", *{options}, "envd-added"], check=True)
answer = os.getcwd()
"""
LOOK = """
import importlib.util, os, sys, envd_sample, local
answer = {
    "words": local.WORDS,
    "files": sorted(set(os.listdir(".")) - {"__pycache__"}),
    "sample": envd_sample.__version__,
    "added": importlib.util.find_spec("envd_added") is not None,
}
"""
PRISTINE = {"words": "packed", "files": ["data.txt", "local.py"], "sample": "1.0", "added": False}
SPOILT = {"words": "spoilt", "files": ["local.py", "result.txt"], "sample": "2.0", "added": True}


@pytest.fixture(scope="module")
def packages(workspace: Path) -> Path:
    """Wheels of what the environments hold, pip among them, and of what workers install."""
    folder = workspace / "isolation"
    for name, version in (("envd-sample", "1.0"), ("envd-sample", "2.0"), ("envd-added", "1.0")):
        make_wheel(folder, name, version)
    download = ["tool", "run", "-q", "pip", "download", "-q", "--no-deps", "-d", str(folder), "pip==25.0"]
    subprocess.run([uv.find_uv_bin(), *download], check=True)
    return folder


@pytest.fixture(scope="module")
def package(workspace: Path) -> str:
    """URI of a working dir; the same for every cluster."""
    folder = workspace / "isolation-dir/top"
    folder.mkdir(parents=True)
    (folder / "local.py").write_text("WORDS = 'packed'\n")
    (folder / "data.txt").write_text("data")
    return f"file://{shutil.make_archive(str(workspace / 'isolated'), 'zip', folder.parent, 'top')}"


def objects(daemon: Daemon) -> dict[str, str]:
    """Digest of every file of the store's objects, but of compiled modules."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in (daemon.store / f"users/{os.geteuid()}/objects-v1").glob("*/*")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def references(daemon: Daemon, node: RayNode) -> int:
    """How many references the daemon counts for a cluster."""
    with daemon.admin() as admin:
        sessions = admin.List(admin_pb2.ListRequest()).sessions
    return sum(each.references for each in sessions if Path(each.session_dir) == node.session)


def test_what_workers_do_stays_in_their_session(
    start_node: Callable[..., RayNode], shared_daemon: Daemon, packages: Path, package: str
) -> None:
    """They write, delete and install: the store, the other cluster and the next job find all as it was."""
    options = ["--no-index", "--find-links", str(packages)]
    requirements = {"packages": ["envd-sample==1.0", "pip==25.0"], "pip_install_options": options}
    job: dict[str, Any] = {"init": {"runtime_env": {"working_dir": package, "pip": requirements}}}
    one, other = start_node(VERSION), start_node(VERSION)
    assert ask(one, task(LOOK), **job).value == PRISTINE
    before = objects(shared_daemon)
    spoil = SPOIL.format(options=options)
    # The same job sees what it did: as on stock, its workers share the folder.
    folder, seen = ask(one, task(spoil), actor(LOOK), apart=True, **job).values
    assert seen == SPOILT
    assert ask(other, task(LOOK), **job).value == PRISTINE
    assert objects(shared_daemon) == before
    wait_until(lambda: not references(shared_daemon, one), 30, "the end of the job's references")
    assert ask(one, task(LOOK), **job).value == PRISTINE
    (left,) = Path(folder).parent.glob("[!.]*.left-*")
    assert (left / "result.txt").read_text() == "42"
