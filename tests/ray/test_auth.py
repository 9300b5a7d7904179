"""Token authentication, which Ray has had since 2.52: on and off, right and wrong."""

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import ask, task
from rays import RayNode

VERSION = "2.60.0"
VISIBLE = task("import os; answer = os.environ['ENVD_SEEN']", {"env_vars": {"ENVD_SEEN": "yes"}})


def call_agent(node: RayNode, token: str | None) -> int:
    """Asks the node's agent for its list as the dashboard does; the HTTP status."""
    (port_file,) = node.session.glob("runtime_env_agent_port_*")
    address = f"{_node_ip(node)}:{port_file.read_text()}"
    request = urllib.request.Request(f"http://{address}/get_runtime_envs_info", data=b"", method="POST")
    request.add_header("Content-Type", "application/octet-stream")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def _node_ip(node: RayNode) -> str:
    """Where the agent was told to listen: Ray puts the machine's address in place of 127.0.0.1."""
    words = Path(f"/proc/{node.raylet_pid()}/cmdline").read_text().split("\0")
    (address,) = [word.partition("=")[2] for word in words if word.startswith("--node_ip_address=")]
    return address


@pytest.fixture(scope="module", params=[VERSION])
def ray_version(request: pytest.FixtureRequest) -> str:
    """Only versions that have tokens."""
    return str(request.param)


def test_with_tokens_only_the_right_one_is_let_in(node: RayNode) -> None:
    """Work goes on, a missing token is 401 and a wrong one 403, as in stock."""
    assert ask(node, VISIBLE).value == "yes"
    wrong = node.token[:-1] + ("0" if node.token[-1] != "0" else "1")
    assert call_agent(node, node.token) == 200
    assert call_agent(node, None) == 401
    assert call_agent(node, wrong) == 403
    assert call_agent(node, "") in (401, 403)


def test_without_tokens_everybody_on_the_machine_is(start_node: Callable[..., RayNode]) -> None:
    """RAY_AUTH_MODE=disabled: no token is asked for."""
    node = start_node(VERSION, auth=False)
    assert ask(node, VISIBLE).value == "yes"
    assert call_agent(node, None) == 200
