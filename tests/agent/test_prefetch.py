"""``prefetch`` on the command line and in the clients, against a fake daemon; and who may be prepared for."""

import json
import os
import pwd
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import ENV, FakeDaemon

from ray_envd.agent.client import AsyncClient, Client, EnvFailedError, Prefetched, Progress, short_id
from ray_envd.agent.errors import DeniedError, InvalidSpecError
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.prefetch import owner_of
from ray_envd.cache.owner import Owner

FAILURE = pb.CreateRuntimeEnvFailure(
    code="resolution", message="no six==99\n  remedy: another", transient=True
)


@pytest.fixture
def call(fake: FakeDaemon, daemon_socket: Path) -> Any:
    """Runs the real command."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ENVD_")}

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "ray_envd", "prefetch", *args],
            env={**environ, "RAY_ENVD_SOCKET": str(daemon_socket), "MY_A": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_each_env_is_told_by_its_name(call: Any, fake: FakeDaemon, tmp_path: Path) -> None:
    """Steps on stderr, results on stdout in the order of the command line; the request has every option."""
    spec = tmp_path / "spec.json"
    spec.write_text('{"uv": ["six"]}')
    options = ("--pin", "--user", "bob", "--python", "sh", "--timeout", "1m", "--pass-env", "MY_*")
    done = call('{"pip": ["six"]}', str(spec), *options)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "#1: ready in 40 ms (cache hit)",
        f"  {short_id(ENV)}",
        f"{spec}: ready in 40 ms (built)",
        f"  {short_id(ENV)}",
    ]
    assert "#1 pip: resolving" in done.stderr.splitlines()
    assert f"{spec} pip: downloading six (50 %, 5/10)" in done.stderr.splitlines()
    assert len(done.stderr.splitlines()) == 2 * len(fake.steps)
    (request,) = fake.requests
    assert list(request.serialized_runtime_envs) == ['{"pip": ["six"]}', '{"uv": ["six"]}']
    assert (request.pin, request.user, request.setup_timeout_seconds) == (True, "bob", 60)
    assert (request.python.endswith("/sh"), dict(request.environment)) == (True, {"MY_A": "1"})


def test_one_that_fails_is_named_and_is_exit_code_1(call: Any, fake: FakeDaemon) -> None:
    """The others are ready all the same; as JSON each line has its number."""
    fake.failure = FAILURE
    done = call("{}", '{"pip": ["six"]}')
    assert done.returncode == 1
    assert "error: #1: no six==99\n  remedy: another" in done.stderr
    assert done.stdout.startswith("#2: ready in")
    done = call("{}", '{"pip": ["six"]}', "--json")
    assert (done.returncode, done.stderr) == (1, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert Counter(line["event"] for line in lines) == {
        "progress": 2 * len(fake.steps),
        "result": 1,
        "failure": 1,
    }
    (failure,) = [line for line in lines if line["event"] == "failure"]
    assert (failure["index"], failure["error"]["code"], failure["error"]["transient"]) == (
        0,
        "resolution",
        True,
    )
    (result,) = [line for line in lines if line["event"] == "result"]
    assert (result["index"], result["objects"], result["cache_hit"]) == (1, [ENV], False)


def test_a_wrong_spec_is_refused_before_anything_begins(call: Any, fake: FakeDaemon) -> None:
    """Exit code 2, and the daemon hears nothing."""
    assert call("{}", "{").returncode == 2
    assert call().returncode == 2
    assert fake.requests == []


def test_a_client_tells_steps_results_and_failures(fake: FakeDaemon, daemon_socket: Path) -> None:
    """A failure is an event: the others go on."""
    fake.failure = FAILURE
    with Client(daemon_socket) as client:
        events = list(client.prefetch([{}, "{}"], pin=True))
    assert [each.index for each in events[:2]] == [0, 1]
    assert events[0].event == Progress("pip", "resolving")
    ready, failed = (each.event for each in events[-2:])
    assert ready == Prefetched(cache_hit=False, seconds=0.0404, objects=(ENV,))
    assert isinstance(failed, EnvFailedError)
    assert (failed.code, failed.transient) == ("resolution", True)
    assert fake.requests == [pb.PrefetchRequest(serialized_runtime_envs=["{}", "{}"], pin=True)]


async def test_the_async_client_does_too(fake: FakeDaemon, daemon_socket: Path) -> None:
    """The same events."""
    async with AsyncClient(daemon_socket) as client:
        events = [each async for each in client.prefetch([{}, "{}"], user="bob")]
    assert [each.index for each in events] == [*[0, 1] * len(fake.steps), 1, 0]
    assert isinstance(events[-1].event, Prefetched)
    assert fake.requests == [pb.PrefetchRequest(serialized_runtime_envs=["{}", "{}"], user="bob")]


def test_who_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a uid, uid:gid, or nobody in particular; one whom nobody knows is refused."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    nobody = pwd.getpwnam("nobody")
    assert owner_of("").uid == 0
    assert owner_of("nobody") == owner_of(str(nobody.pw_uid)) == Owner.of(nobody.pw_uid, nobody.pw_gid)
    assert (owner_of("41000:41001").uid, owner_of("41000:41001").gid) == (41000, 41001)
    for unknown in ("no-such-user", "41000", "a\0b", "99999999999"):
        with pytest.raises(InvalidSpecError, match="there is no user"):
            owner_of(unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DeniedError, match="runs as uid 1000"):
        owner_of("41000:41001")
