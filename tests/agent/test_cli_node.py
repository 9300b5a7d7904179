"""``attach`` and ``detach`` from the command line."""

import json
import os
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ray_envd.agent.cli import cli
from ray_envd.agent.cli.common import Exit

STOCK = "print('stock')\n"


def invoke(*args: str, **environ: str) -> Result:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("RAY_ENVD_")}
    return CliRunner().invoke(cli, list(args), env={**clean, **environ})


@pytest.fixture
def agent_dir(tmp_path: Path) -> Path:
    """Ray's agent folder in a small virtual environment, ``tmp_path/v``."""
    venv.create(tmp_path / "v", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "v" / "lib").glob("python*/site-packages")
    folder = site / "ray/_private/runtime_env/agent"
    folder.mkdir(parents=True)
    (site / "ray/__init__.py").touch()
    (site / "ray/_version.py").write_text('version = "2.60.0"\n')
    (folder / "main.py").write_text(STOCK)
    return folder


@pytest.fixture
def python(agent_dir: Path, tmp_path: Path) -> str:
    return str(tmp_path / "v/bin/python")


def settings(agent_dir: Path) -> dict[str, object]:
    made: dict[str, object] = json.loads((agent_dir / "ray_envd_link.json").read_text())
    return made


def test_attach_status_detach(agent_dir: Path, python: str) -> None:
    """Each says what it did; status has an exit code for scripts; detach restores Ray's own."""
    assert invoke("attach", "--python", python, "--status").exit_code == Exit.FAILED
    done = invoke("attach", "--python", python)
    assert done.exit_code == 0
    assert done.stdout == f"attached: Ray 2.60.0 in {agent_dir}\n"
    assert "nothing to do" in invoke("attach", "--python", python).stdout
    done = invoke("attach", "--python", python, "--status")
    assert done.exit_code == 0
    assert "by ray-envd" in done.stdout
    done = invoke("attach", "--python", python, "--status", "--json")
    assert json.loads(done.stdout)["attached"] is True
    done = invoke("detach", "--python", python, "--json")
    assert json.loads(done.stdout)["action"] == "detached"
    assert (agent_dir / "main.py").read_text() == STOCK


def test_the_link_starts_a_daemon_unless_it_is_supervised(agent_dir: Path, python: str) -> None:
    """By default one that ends when idle; no socket is fixed, because the default differs by user."""
    invoke("attach", "--python", python)
    daemon = [sys.executable, "-P", "-m", "ray_envd", "serve", "--idle-exit", "600"]
    assert settings(agent_dir)["daemon"] == daemon
    assert settings(agent_dir)["socket"] is None
    invoke("attach", "--python", python, "--supervised")
    assert settings(agent_dir)["daemon"] is None


def test_what_was_chosen_goes_into_the_link(agent_dir: Path, python: str, tmp_path: Path) -> None:
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
    made = settings(agent_dir)
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
