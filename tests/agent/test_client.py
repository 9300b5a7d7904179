"""The Python client, against a fake daemon on real sockets."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fake_daemon
import pytest
from fake_daemon import ENV, TOKEN, TREE, FakeDaemon

from ray_envd.agent.client import (
    AsyncClient,
    Client,
    Context,
    Created,
    DaemonUnavailableError,
    EnvFailedError,
    Progress,
    RemoteError,
)
from ray_envd.agent.pb import admin_pb2 as pb

FAILURE = pb.CreateRuntimeEnvFailure(code="resolution", message="no six==99", transient=True)


def test_create_tells_the_steps_then_the_result(fake: FakeDaemon, daemon_socket: Path) -> None:
    """Events are typed and come in order; the request carries every argument."""
    with Client(daemon_socket) as client:
        *steps, last = client.create(
            {"pip": ["six"]}, python="/py", setup_timeout_seconds=-1, environment={"A": "b"}
        )
    assert steps[1] == Progress("pip", "downloading", "six", 5, 10)
    assert isinstance(last, Created)
    assert (last.cache_hit, last.seconds, last.objects) == (False, 0.0404, (ENV, TREE))
    assert last.context.env_vars == {"GREETING": "hello"}
    (request,) = fake.requests
    assert request == pb.CreateRuntimeEnvRequest(
        serialized_runtime_env='{"pip": ["six"]}',
        python="/py",
        setup_timeout_seconds=-1,
        environment={"A": "b"},
    )


def test_a_failure_is_typed(fake: FakeDaemon, daemon_socket: Path) -> None:
    """Code, message and whether to try again come through; the steps before it are told."""
    fake.failure = FAILURE
    with Client(daemon_socket) as client:
        events = client.create("{}")
        assert [next(events).phase for _ in range(3)] == ["resolving", "downloading", "unpacking"]  # type: ignore[union-attr]  # steps come first, or the test fails
        with pytest.raises(EnvFailedError, match="six==99") as caught:
            next(events)
        assert (caught.value.code, caught.value.transient) == ("resolution", True)
        with pytest.raises(EnvFailedError, match="six==99"):
            client.get_or_create("{}")


def test_hold_lasts_as_long_as_the_block(fake: FakeDaemon, daemon_socket: Path) -> None:
    """The daemon sees the stream open inside and cancelled after, also after an exception."""
    with Client(daemon_socket) as client:
        with client.hold({}) as created:
            assert created.objects == (ENV, TREE)
            assert fake.holding.wait(5)
            assert not fake.released.is_set()
        assert fake.released.wait(5)
        fake.released.clear()
        fake.holding.clear()
        with pytest.raises(ZeroDivisionError), client.hold({}):
            _ = 1 / (0 * fake.holding.wait(5))  # what is cancelled before it holds has nothing to release
        assert fake.released.wait(5)


def test_a_failure_while_holding_is_raised_at_once(fake: FakeDaemon, daemon_socket: Path) -> None:
    """The block is not entered."""
    fake.failure = FAILURE
    with Client(daemon_socket) as client, pytest.raises(EnvFailedError), client.hold({}):
        pytest.fail("entered")


def test_raylets_calls(fake: FakeDaemon, daemon_socket: Path) -> None:
    """get_or_create, delete and envs_info speak ray.rpc; absent fields are None."""
    with Client(daemon_socket) as client:
        context = client.get_or_create(
            '{"a": 1}', setup_timeout_seconds=7, job_id="01000000", source_process="me"
        )
        assert context.py_executable == "python3"
        (request,) = fake.requests
        assert request.serialized_runtime_env == '{"a": 1}'
        assert request.runtime_env_config.setup_timeout_seconds == 7
        assert (request.job_id, request.source_process) == (b"01000000", "me")
        client.delete('{"a": 1}')
        with pytest.raises(RemoteError, match="not referenced"):
            client.delete('{"a": 1}')
        infos = client.envs_info(limit=2)
    assert infos.total == 9
    assert infos.envs[0].creation_seconds == 0.04
    assert (infos.envs[1].success, infos.envs[1].error) == (None, None)


def test_the_daemon_is_looked_into_and_run(fake: FakeDaemon, daemon_socket: Path) -> None:
    """Times are seconds, an absent target stays absent, codes of refusals are gRPC's."""
    with Client(daemon_socket) as client:
        listing = client.list()
        assert [each.id for each in listing.objects] == [ENV, TREE]
        assert listing.objects[0].last_used == 1_700_000_100.0
        assert listing.objects[0].short_id == "python-env/ab12ab12ab12"
        assert listing.sessions[0].ray_version == "2.60.0"
        assert client.stats().used_bytes == 13_346_677
        assert client.gc(dry_run=True).victims[0].object.id == TREE
        assert not fake.requests[-1].HasField("target_bytes")
        client.gc(target_bytes=0)
        assert fake.requests[-1].HasField("target_bytes")
        assert client.remove("cd34").freed_bytes == 999
        fake.further = [pb.Object(id=f"python/{number:064}") for number in range(3)]
        assert [each.id[-1] for each in client.list().objects[2:]] == ["0", "1", "2"]
        for wrong, code in (("nope", "not_found"), ("ab12", "failed_precondition")):
            with pytest.raises(RemoteError) as caught:
                client.remove(wrong)
            assert caught.value.code == code
        assert client.pin(ENV).pinned
        assert not client.unpin(TREE).pinned
        assert client.drain(1.5) == 1
        assert fake.requests[-1].deadline_seconds == 1.5
        assert client.health()


async def test_the_async_client_does_the_same(fake: FakeDaemon, daemon_socket: Path) -> None:
    """Same results, errors and holds, on an event loop."""
    async with AsyncClient(daemon_socket) as client:
        events = [event async for event in client.create({"pip": ["six"]})]
        assert isinstance(events[-1], Created)
        async with client.hold({}) as created:
            assert created.cache_hit is False
            assert fake.holding.wait(5)
        assert fake.released.wait(5)
        await client.get_or_create({})
        await client.delete({})
        assert (await client.envs_info()).total == 9
        fake.further = [pb.Object(id=f"python/{number:064}") for number in range(3)]
        assert len((await client.list()).objects) == 5
        assert (await client.stats()).hits == 30
        assert (await client.gc(dry_run=True)).freed_bytes == 999
        assert [each.done async for each in client.verify([ENV])] == [1, 2]
        assert fake.requests[-1].ids == [ENV]
        assert (await client.remove(TREE)).id == TREE
        assert (await client.pin(ENV)).pinned
        assert not (await client.unpin(ENV)).pinned
        assert await client.health()
        assert await client.drain() == 1
        fake.failure = FAILURE
        with pytest.raises(EnvFailedError):
            _ = [event async for event in client.create({})]
        with pytest.raises(RemoteError):
            await client.remove("nope")


def test_tcp_asks_for_the_token() -> None:
    """With it calls work; without it the refusal names the remedy."""
    server, port = fake_daemon.start(FakeDaemon(), "127.0.0.1:0", token=True)
    try:
        with Client(f"127.0.0.1:{port}", token=TOKEN) as client:
            assert client.stats().pid == 4242
            assert list(client.create({}))
        with Client(f"127.0.0.1:{port}", token="wrong") as client, pytest.raises(RemoteError) as caught:
            client.stats()
        assert caught.value.code == "unauthenticated"
        assert "tcp_token_file" in caught.value.remedy
    finally:
        server.stop(None).wait()


def test_no_daemon_is_told_from_a_dead_one(short_tmp: Path) -> None:
    """The message names the path and what is wrong, the remedy how to start one."""
    missing = short_tmp / "none.sock"
    with Client(missing) as client, pytest.raises(DaemonUnavailableError, match="no such socket") as caught:
        client.stats()
    assert str(missing) in str(caught.value)
    assert "ray-envd serve" in caught.value.remedy
    stale = short_tmp / "stale.sock"
    server, _ = fake_daemon.start(FakeDaemon(), short_tmp / "live.sock")
    os.link(short_tmp / "live.sock", stale)
    server.stop(None).wait()
    with Client(stale) as client, pytest.raises(DaemonUnavailableError, match="is gone"):
        list(client.create({}))
    with Client("127.0.0.1:1") as client, pytest.raises(DaemonUnavailableError, match=r"127\.0\.0\.1:1"):
        client.stats()


async def test_no_daemon_for_the_async_client(short_tmp: Path) -> None:
    """The same typed error, from a stream too."""
    async with AsyncClient(short_tmp / "none.sock") as client:
        with pytest.raises(DaemonUnavailableError):
            await client.stats()
        with pytest.raises(DaemonUnavailableError):
            _ = [event async for event in client.create({})]


def test_a_restarted_daemon_is_found_again(daemon_socket: Path) -> None:
    """A client that lives longer than its daemon needs no new connection object."""
    server, _ = fake_daemon.start(FakeDaemon(), daemon_socket)
    with Client(daemon_socket) as client:
        assert client.health()
        server.stop(None).wait()
        with pytest.raises(DaemonUnavailableError):
            client.stats()
        server, _ = fake_daemon.start(FakeDaemon(), daemon_socket)
        deadline = time.monotonic() + 10
        while True:
            try:
                assert client.stats().pid == 4242
                break
            except DaemonUnavailableError:
                assert time.monotonic() < deadline
    server.stop(None).wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_told_whose_socket_it_is(fake: FakeDaemon, daemon_socket: Path) -> None:
    """EACCES is not 'no daemon'."""
    daemon_socket.parent.chmod(0o711)
    daemon_socket.chmod(0o600)
    script = f"""
import json
import os
from ray_envd.agent.client import Client, DaemonUnavailableError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Client({str(daemon_socket)!r}).stats()
except DaemonUnavailableError as error:
    print(error, error.remedy)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=30
    )
    assert "belongs to uid 0, this is uid 65534" in done.stdout, done.stderr
    assert "as root" in done.stdout


@pytest.mark.parametrize("address", ["nonsense", "socket.sock"])
def test_an_address_is_a_path_or_host_and_port(address: str) -> None:
    """Anything else is refused before it is looked up as a host name."""
    with pytest.raises(ValueError, match="neither"):
        Client(address)


def context(**fields: object) -> Context:
    return Context.parse(json.dumps(fields))


def test_env_vars_are_expanded_like_rays() -> None:
    """In order, from what is set by then; unset capitals in braces vanish, the rest stays (update_envs)."""
    made = context(
        env_vars={"A": "x:${PATH}", "B": "${A}$HOME", "C": "${NOT_SET}-$NOT_SET-${not_set}", "D": "${}"},
    ).environment({"PATH": "/bin", "HOME": "/h"})
    assert made == {
        "PATH": "/bin",
        "HOME": "/h",
        "A": "x:/bin",
        "B": "x:/bin/h",
        "C": "-$NOT_SET-${not_set}",
        "D": "${}",
    }


def test_the_command_is_quoted_and_python_is_the_envs() -> None:
    """Arguments reach the program as they are; the prefix and the interpreter are shell text."""
    made = context(command_prefix=["cd", "/tmp", "&&"], py_executable=f"'{sys.executable}' -I")
    argv = [
        "python",
        "-c",
        "import os, sys; print(os.getcwd(), sys.argv[1:], sys.flags.isolated)",
        "a b",
        "$x;'",
    ]
    done = subprocess.run(["bash", "-c", made.command(argv)], capture_output=True, text=True, check=True)
    assert done.stdout == """/tmp ['a b', "$x;'"] 1\n"""
    assert made.command(["ls", "-l"]) == "cd /tmp && exec ls -l"
