"""Ray 2.6.3's own generated gRPC stub, a client that nobody here wrote, drives our gRPC service."""

import json
import os
import subprocess
from typing import Any

import pytest
from asking import DRIVERS, STOCK
from daemons import Daemon
from rays import ROOT

pytestmark = pytest.mark.skipif(STOCK, reason="stock Ray is not asked")
RAY_263 = ROOT / ".work" / "ray-2.6.3"


def call(daemon: Daemon, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes calls with the stub, one after another, in one process of its own Python."""
    command = [RAY_263 / "bin" / "python", DRIVERS / "stub_263.py", RAY_263, f"unix:{daemon.socket}"]
    done = subprocess.run(
        command, input=json.dumps(calls), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    replies: list[dict[str, Any]] = json.loads(done.stdout)
    return replies


def started(reply: dict[str, Any], variable: str) -> str:
    """What a worker that is started with a reply's context sees of a variable."""
    context = json.loads(reply["serialized_runtime_env_context"])
    command = " ".join([*context["command_prefix"], "exec", "printenv", variable])
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, **context["env_vars"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_create_list_delete(daemon: Daemon) -> None:
    """An env is made, referenced, listed, and released as often as it was referenced."""
    env = json.dumps({"env_vars": {"ENVD_A": "1"}})
    create = ("GetOrCreateRuntimeEnv", {"serialized_runtime_env": env, "source_process": "raylet"})
    delete = ("DeleteRuntimeEnvIfPossible", {"serialized_runtime_env": env, "source_process": "raylet"})
    info: tuple[str, dict[str, Any]] = ("GetRuntimeEnvsInfo", {})
    replies = call(daemon, create, create, info, delete, info, delete, delete)
    first, second, listed, gone, relisted, gone_too, too_often = replies
    assert started(first, "ENVD_A") == "1"
    assert first == second
    assert "error_message" not in first
    (state,) = listed["runtime_env_states"]
    assert "ENVD_A" in state["runtime_env"]
    assert (state["ref_cnt"], state["success"]) == ("2", True)
    assert relisted["runtime_env_states"][0]["ref_cnt"] == "1"
    assert gone == gone_too == {"status": "AGENT_RPC_STATUS_OK"} or gone == gone_too == {}
    assert too_often["status"] == "AGENT_RPC_STATUS_FAILED"


def test_a_bad_env_is_a_failed_reply(daemon: Daemon) -> None:
    """What cannot be made is a FAILED reply with a message, not an RPC error, and adds no reference."""
    env = json.dumps({"pip": ["--no-index", "envd-nowhere==1.0"]})
    create = ("GetOrCreateRuntimeEnv", {"serialized_runtime_env": env, "source_process": "raylet"})
    info: tuple[str, dict[str, Any]] = ("GetRuntimeEnvsInfo", {})
    reply, broken, listed = call(
        daemon, create, ("GetOrCreateRuntimeEnv", {"serialized_runtime_env": "{"}), info
    )
    assert reply["status"] == "AGENT_RPC_STATUS_FAILED"
    assert "envd-nowhere" in reply["error_message"]
    assert broken["status"] == "AGENT_RPC_STATUS_FAILED"
    assert all(int(state.get("ref_cnt", 0)) == 0 for state in listed["runtime_env_states"])


def test_old_field_numbers_are_understood(daemon: Daemon) -> None:
    """In 2.6 source_process is field 5, and 4 holds allocated resources: `client_server` is not counted."""
    env = json.dumps({"env_vars": {"ENVD_B": "1"}})
    fields = {
        "serialized_runtime_env": env,
        "runtime_env_config": {"setup_timeout_seconds": 60, "eager_install": True},
        "serialized_allocated_resource_instances": json.dumps({"CPU": 1}),
        "source_process": "client_server",
    }
    info: tuple[str, dict[str, Any]] = ("GetRuntimeEnvsInfo", {})
    made, listed = call(daemon, ("GetOrCreateRuntimeEnv", fields), info)
    assert started(made, "ENVD_B") == "1"
    states = [each for each in listed.get("runtime_env_states", []) if "ENVD_B" in each["runtime_env"]]
    assert all(int(state.get("ref_cnt", 0)) == 0 for state in states)
