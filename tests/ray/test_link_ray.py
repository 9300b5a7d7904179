"""The link between real raylets and no daemon: attached nodes are never worse off than others."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import STOCK, VERSIONS, ask, task
from processes import alive, end_marked, kill, wait_until
from rays import ROOT, RayNode, install_ray, link_pids

from ray_envd.agent.attach import attach, detach, status
from ray_envd.agent.link.script import SETTINGS_NAME

pytestmark = pytest.mark.skipif(STOCK, reason="stock Ray has no link")
SEEN = task("import os; answer = os.environ['ENVD_SEEN']", {"env_vars": {"ENVD_SEEN": "yes"}})


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A Ray of this module's own, not attached."""
    folder = ROOT / ".work" / f"link-{os.getpid()}-{request.param}"
    yield install_ray(request.param, folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)


@pytest.fixture
def node(python: Path, short_tmp: Path) -> Iterator[RayNode]:
    """A cluster that is not started."""
    made = RayNode(python, short_tmp / "n")
    yield made
    made.stop()


def test_attached_node_without_a_daemon_is_a_stock_node(python: Path, node: RayNode, short_tmp: Path) -> None:
    """Nobody listens where a supervised daemon should: tasks run on Ray's own agent; detach restores it."""
    before = status(python)
    original = (before.agent_dir / "main.py").read_bytes()
    attach(python, socket=short_tmp / "none.sock.link", daemon=None)
    settings = before.agent_dir / SETTINGS_NAME
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "start_seconds": 1}))
    node.start()
    assert ask(node, SEEN).value == "yes"
    log = (node.session / "logs" / "runtime_env_agent.log").read_text()
    assert "this node runs on Ray's stock runtime-env agent, not on ray-envd: no daemon within 1 s" in log
    node.stop()
    detach(python)
    assert (before.agent_dir / "main.py").read_bytes() == original
    assert status(python) == before


def test_raylet_that_is_killed_takes_a_waiting_link_along(
    python: Path, node: RayNode, short_tmp: Path
) -> None:
    """Also while the link still looks for a daemon, it is gone within five seconds of its raylet."""
    attach(python, socket=short_tmp / "none.sock.link", daemon=None)
    settings = status(python).agent_dir / SETTINGS_NAME
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "start_seconds": 60}))
    node.start()
    (link,) = link_pids(node)
    kill([node.raylet_pid()])
    wait_until(lambda: not alive(link), 5, "the end of the link")
    end_marked(node.mark)  # `ray start` takes its time over a raylet that it has lost
    detach(python)
