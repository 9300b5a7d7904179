"""The daemon's other faces: gRPC on its socket and on TCP, and HTTP for machines that watch."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemons import Daemon
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from helpers import make_wheel, wait_until
from processes import clean_environment, free_ports, marked
from raylet import MakeRaylet, Raylet
from sources import FileServer, http_of, left_over, make_zip

from ray_envd.agent.client import Client, Created, EnvFailedError, Progress, RemoteError
from ray_envd.agent.pb import admin_pb2, admin_pb2_grpc, runtime_env_pb2_grpc
from ray_envd.agent.pb import runtime_env_pb2 as pb

SERVICES = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "ray.rpc.RuntimeEnvService",
    "ray_envd.v1.AdminService",
}


@pytest.fixture
def client(node: Daemon) -> Iterator[Client]:
    """A client of the module's daemon."""
    with Client(node.socket) as made:
        yield made


@pytest.fixture
def package(tmp_path: Path) -> dict[str, str]:
    """A runtime env with an object of its own."""
    return {"working_dir": make_zip(tmp_path / "p.zip", {"u": os.urandom(9).hex()}).as_uri()}


def object_of(client: Client, env: dict[str, str]) -> Any:
    """The object of :func:`package`'s env, or None."""
    found = [each for each in client.list().objects if env["working_dir"] in each.summary]
    return found[0] if found else None


def test_health(node: Daemon) -> None:
    """The daemon and each service serve; of others nothing is known."""
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "ray.rpc.RuntimeEnvService", "ray_envd.v1.AdminService"):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as failure:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such"))
        assert failure.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection(node: Daemon) -> None:
    """A tool that knows nothing finds every service and its methods."""
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asks = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in SERVICES),
        ]
        listed, *described = list(stub.ServerReflectionInfo(iter(asks)))
    assert {each.name for each in listed.list_services_response.service} == SERVICES
    for reply in described:
        assert reply.file_descriptor_response.file_descriptor_proto, reply


def test_ray_26s_service(node: Daemon) -> None:
    """Create, info and delete over gRPC count as over HTTP; a bad env is FAILED, not a gRPC error."""
    env = json.dumps({"env_vars": {"OVER": "grpc"}})
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        stub = runtime_env_pb2_grpc.RuntimeEnvServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code has no annotations
        ask = pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=env, legacy_source_process="raylet")
        reply = stub.GetOrCreateRuntimeEnv(ask)
        assert (reply.status, bool(reply.serialized_runtime_env_context)) == (pb.AGENT_RPC_STATUS_OK, True)
        (state,) = stub.GetRuntimeEnvsInfo(pb.GetRuntimeEnvsInfoRequest()).runtime_env_states
        assert state.ref_cnt == 1
        back = pb.DeleteRuntimeEnvIfPossibleRequest(serialized_runtime_env=env, source_process="raylet")
        assert stub.DeleteRuntimeEnvIfPossible(back).status == pb.AGENT_RPC_STATUS_OK
        assert stub.DeleteRuntimeEnvIfPossible(back).status == pb.AGENT_RPC_STATUS_FAILED
        bad = stub.GetOrCreateRuntimeEnv(pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env="{"))
        assert bad.status == pb.AGENT_RPC_STATUS_FAILED
        assert "JSON" in bad.error_message


def test_create_tells_its_steps(client: Client, tmp_path: Path) -> None:
    """Progress first, then exactly one result, with the objects; the second time it is a hit."""
    make_wheel(tmp_path, "steps", "1.0")
    options = ["--no-index", "--find-links", str(tmp_path)]
    env = {"pip": {"packages": ["steps"], "pip_install_options": options}}
    *steps, result = client.create(env, python=sys.executable)
    assert all(isinstance(step, Progress) for step in steps)
    assert {"resolving", "installing"} <= {step.phase for step in steps if isinstance(step, Progress)}
    assert isinstance(result, Created)
    assert not result.cache_hit
    again = list(client.create(env, python=sys.executable))[-1]
    assert isinstance(again, Created)
    assert again.cache_hit
    assert again.objects == result.objects
    assert client.stats().references == 0


def test_a_failure_is_typed(client: Client) -> None:
    """The stream ends with code and message."""
    with pytest.raises(EnvFailedError) as failure:
        list(client.create({"conda": {"dependencies": []}}))
    assert failure.value.code == "unsupported"


def test_a_hold_ends_with_its_stream(client: Client, package: dict[str, str]) -> None:
    """Meanwhile the object cannot be removed; afterwards it can, and the caller's trees are gone."""
    with client.hold(package) as created:
        tree = Path(created.context.command_prefix[4])
        assert (tree / "u").is_file()
        entry = object_of(client, package)
        assert entry.references == 1
        with pytest.raises(RemoteError) as refusal:
            client.remove(entry.id)
        assert refusal.value.code == "failed_precondition"
    wait_until(lambda: object_of(client, package).references == 0, 5, "the end of the hold")
    wait_until(lambda: not tree.exists(), 5, "the end of the tree")
    assert client.remove(entry.id).freed_bytes > 0
    assert object_of(client, package) is None


def test_a_hold_ends_with_its_process(node: Daemon, client: Client, package: dict[str, str]) -> None:
    """A client that is killed holds nothing any more."""
    code = f"""
from ray_envd.agent.client import Client
with Client({str(node.socket)!r}) as client, client.hold({package!r}):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment(),
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert object_of(client, package).references == 1
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: object_of(client, package).references == 0, 5, "the end of the hold")


def test_a_download_ends_with_its_only_stream(node: Daemon, client: Client, web: FileServer) -> None:
    """A caller that leaves before the end cancels what nobody else waits for."""
    web.files["never.zip"] = b"x"
    web.gate.clear()
    events = client.create({"working_dir": f"{web.url}/never.zip"})
    next(events)
    wait_until(lambda: web.asked, 10, "the download")
    assert marked(web.url)
    events.close()
    wait_until(lambda: not marked(web.url), 2, "the end of the download")
    assert node.stats().references == 0
    assert left_over(node.store) == []


def test_objects_that_are_not_there(client: Client, package: dict[str, str]) -> None:
    """NOT_FOUND for remove, pin and unpin; INVALID_ARGUMENT for a prefix of several."""
    for call in (client.remove, client.pin, client.unpin):
        with pytest.raises(RemoteError) as failure:
            call("archive/ffff")
        assert failure.value.code == "not_found"
    list(client.create(package))
    with pytest.raises(RemoteError) as failure:
        client.remove("")
    assert failure.value.code in {"invalid_argument", "not_found"}


def test_pins_and_collection(client: Client, package: dict[str, str], tmp_path: Path) -> None:
    """A dry run removes nothing, a pinned object stays, --to 0 takes every other that nobody uses."""
    other = {"working_dir": make_zip(tmp_path / "other.zip", {"u": os.urandom(9).hex()}).as_uri()}
    for env in (package, other):
        list(client.create(env))
    pinned = client.pin(object_of(client, package).id)
    assert pinned.pinned
    plan = client.gc(dry_run=True, target_bytes=0)
    assert object_of(client, other) is not None
    named = {victim.object.id for victim in plan.victims}
    assert object_of(client, other).id in named
    assert pinned.id not in named
    assert all(victim.reason for victim in plan.victims)
    with pytest.raises(RemoteError) as refusal:
        client.remove(pinned.id)
    assert refusal.value.code == "failed_precondition"
    done = client.gc(target_bytes=0)
    assert done.freed_bytes > 0
    assert object_of(client, other) is None
    assert object_of(client, package) is not None
    assert not client.unpin(pinned.id).pinned
    client.gc(target_bytes=0)
    assert object_of(client, package) is None


def test_what_a_raylet_uses_is_not_collected(client: Client, raylet: Raylet, package: dict[str, str]) -> None:
    """Until it gives its reference back; then the env is prepared anew for the next who asks."""
    raylet.prepared(package)
    client.gc(target_bytes=0)
    assert object_of(client, package) is not None
    raylet.delete(package)
    client.gc(target_bytes=0)
    assert object_of(client, package) is None
    raylet.prepared(package)
    assert object_of(client, package).references == 1


def test_the_listing_shows_sessions(client: Client, raylet: Raylet) -> None:
    """With the raylet's pid, its Ray, its interpreter and its references."""
    raylet.prepared({"env_vars": {"A": "1"}})
    assert raylet.process is not None
    (session,) = [s for s in client.list().sessions if s.raylet_pid == raylet.process.pid]
    assert session.ray_version == "2.60.0"
    assert session.python == raylet.python
    assert (session.envs, session.references, session.connected) == (1, 1, True)
    assert session.owner_uid == os.geteuid()


def test_drain_ends_the_daemon(start_daemon: Callable[..., Daemon]) -> None:
    """It says how many builds it cut off, and the process ends with 0."""
    daemon = start_daemon()
    with Client(daemon.socket) as client:
        assert client.drain(5) == 0
    assert daemon.process is not None
    assert daemon.process.wait(10) == 0


@pytest.fixture
def tcp(start_daemon: Callable[..., Daemon], short_tmp: Path) -> str:
    """The address of a daemon that serves TCP with the token ``s3same``."""
    token = short_tmp / "token"
    token.write_text("s3same\n")
    token.chmod(0o600)
    (port,) = free_ports(1)
    start_daemon("--tcp", f"127.0.0.1:{port}", "--tcp-token-file", str(token))
    return f"127.0.0.1:{port}"


def test_tcp_asks_for_the_token(tcp: str) -> None:
    """With it everything works, also streams; with a wrong one or none nothing does."""
    env = {"env_vars": {"A": "1"}}
    with Client(tcp, token="s3same") as client:
        assert client.stats().pid
        assert isinstance(list(client.create(env))[-1], Created)
    for token in ("wrong", "s3same2", None):
        with Client(tcp, token=token) as client:
            for call in (client.stats, client.list, lambda client=client: list(client.create(env))):
                with pytest.raises(RemoteError) as failure:
                    call()
                assert failure.value.code == "unauthenticated"


def status_of(url: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of an answer."""
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_http_for_machines(node: Daemon, make_raylet: MakeRaylet) -> None:
    """Health, readiness and Prometheus' figures, which move with the work."""
    url = http_of(node)
    assert status_of(f"{url}/healthz") == (200, "ok\n")
    assert status_of(f"{url}/readyz") == (200, "ready\n")
    assert status_of(f"{url}/nowhere")[0] == 404
    assert status_of(f"{url}/metrics", "POST")[0] in {405, 413}

    def figure(name: str) -> float:
        lines = status_of(f"{url}/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    hits, sessions = figure('ray_envd_acquires_total{outcome="hit"}'), figure("ray_envd_sessions ")
    raylet = make_raylet()
    for _ in range(3):
        raylet.prepared({"env_vars": {"A": "1"}})
    assert figure('ray_envd_acquires_total{outcome="hit"}') >= hits + 2
    assert figure("ray_envd_sessions ") == sessions + 1


def test_a_listing_comes_in_pages(node: Daemon, client: Client, tmp_path: Path) -> None:
    """Each object once, in order, the sessions with the first page; without a size it is one page as ever."""
    for name in range(3):
        work = make_zip(tmp_path / f"{name}.zip", {"u": os.urandom(9).hex()})
        list(client.create({"working_dir": work.as_uri()}))
    everything = [each.id for each in client.list().objects]
    assert len(everything) >= 3
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)  # type: ignore[no-untyped-call]  # generated code has no annotations
        whole = stub.List(admin_pb2.ListRequest())
        assert ([each.id for each in whole.objects], whole.next_page_token) == (everything, "")
        found, token, pages = list[str](), "", 0
        while token or not pages:
            page = stub.List(admin_pb2.ListRequest(page_size=2, page_token=token))
            assert len(page.objects) <= 2
            found += [each.id for each in page.objects]
            token, pages = page.next_page_token, pages + 1
    assert (found, pages) == (everything, (len(everything) + 1) // 2)
