"""``attach`` and ``detach`` from the command line."""

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ray_installation import ORIGINAL, Installation

from ray_envd.agent.cli import cli
from ray_envd.agent.cli.common import Exit


def invoke(*args: str, **environ: str) -> Result:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("RAY_ENVD_")}
    return CliRunner().invoke(cli, list(args), env={**clean, **environ})


@pytest.fixture
def python(ray: Installation) -> str:
    return str(ray.python)


def test_attach_status_detach(ray: Installation, python: str) -> None:
    """Each says what it did; status has an exit code for scripts; detach restores Ray's own."""
    assert invoke("attach", "--python", python, "--status").exit_code == Exit.FAILED
    done = invoke("attach", "--python", python)
    assert done.exit_code == 0
    assert done.stdout == f"attached: Ray 2.60.0 in {ray.agent}\n"
    assert "nothing to do" in invoke("attach", "--python", python).stdout
    done = invoke("attach", "--python", python, "--status")
    assert done.exit_code == 0
    assert "by ray-envd" in done.stdout
    done = invoke("attach", "--python", python, "--status", "--json")
    assert json.loads(done.stdout)["attached"] is True
    done = invoke("detach", "--python", python, "--json")
    assert json.loads(done.stdout)["action"] == "detached"
    assert ray.main.read_bytes() == ORIGINAL


def test_the_link_starts_a_daemon_unless_it_is_supervised(ray: Installation, python: str) -> None:
    """By default one that ends when idle; no socket is fixed, because the default differs by user."""
    invoke("attach", "--python", python)
    daemon = [sys.executable, "-P", "-m", "ray_envd", "serve", "--idle-exit", "600"]
    assert ray.settings()["daemon"] == daemon
    assert ray.settings()["socket"] is None
    invoke("attach", "--python", python, "--supervised")
    assert ray.settings()["daemon"] is None


def test_what_was_chosen_goes_into_the_link(ray: Installation, python: str, tmp_path: Path) -> None:
    """Socket, store and config file; the socket is not in the daemon's arguments: the link tells it."""
    config = tmp_path / "c.toml"
    config.write_text("")
    invoke(
        "attach",
        "--python",
        python,
        "--socket",
        "/tmp/x.sock",
        "--config",
        str(config),
        RAY_ENVD_STORE="/tmp/s",
    )
    made = ray.settings()
    assert made["socket"] == "/tmp/x.sock.link"
    assert isinstance(made["daemon"], list)
    assert made["daemon"][-4:] == ["--config", str(config), "--store", "/tmp/s"]
    assert "--socket" not in made["daemon"]


def test_attach_says_why_not(python: str) -> None:
    """No such program is a usage error, an interpreter without Ray a failure with its remedy."""
    assert invoke("attach").exit_code == Exit.USAGE
    assert invoke("attach", "--python", "/no/python").exit_code == Exit.USAGE
    done = invoke("attach", "--python", sys.executable)
    assert done.exit_code == Exit.FAILED
    assert done.stderr.startswith("error: ")
    assert "remedy: " in done.stderr
    done = invoke("detach", "--python", sys.executable, "--json")
    assert json.loads(done.stdout)["error"]["code"] == "detach"
