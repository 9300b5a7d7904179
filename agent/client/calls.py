"""Every call once: its path, its request and how what comes back is read. Both clients send these."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from ray_envd.agent.client import messages, wire
from ray_envd.agent.client.context import Context
from ray_envd.agent.client.errors import EnvFailedError, RemoteError
from ray_envd.agent.client.traces import Happening, happening
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.pb import runtime_env_pb2 as ray_pb

T = TypeVar("T")
RuntimeEnv = Mapping[str, Any] | str

_ADMIN = "/ray_envd.v1.AdminService/"
_RAY = "/ray.rpc.RuntimeEnvService/"
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The daemon is on this machine or in this cluster: never behind http_proxy.
    ("grpc.enable_http_proxy", 0),
    # A daemon that was restarted is found again at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_PAGE = 1000  # objects; a page is some hundred kilobytes
#: Seconds for an answer that needs no building.
SHORT = 30.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call, answered once or by a stream.

    Attributes:
        path: gRPC's name of the method.
        request: the message.
        reply: type of the reply, or of each message of the stream.
        read: makes the result of that.
        timeout: seconds; None waits as long as it takes, as streams do.
    """

    path: str
    request: Message
    reply: type[Message]
    read: Callable[[Any], T]
    timeout: float | None = SHORT


def target_of(address: str | Path) -> tuple[str, str]:
    """What gRPC and people call an address: a socket's path, ``unix:PATH`` or ``host:port``.

    Raises:
        ValueError: it is neither.
    """
    text = str(address).removeprefix("unix:")
    if isinstance(address, Path) or "/" in text:
        path = str(Path(text).absolute())
        return f"unix:{path}", path
    if ":" not in text:
        raise ValueError(f"{text!r} is neither the path of a socket nor host:port")
    return text, text


def metadata_of(token: str | None) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def serialized(runtime_env: RuntimeEnv) -> str:
    """A runtime env as Ray serializes it: JSON with sorted keys."""
    return runtime_env if isinstance(runtime_env, str) else json.dumps(runtime_env, sort_keys=True)


def create(
    runtime_env: RuntimeEnv,
    *,
    python: str | None,
    setup_timeout_seconds: int,
    environment: Mapping[str, str] | None,
    hold: bool,
) -> Call[messages.Event]:
    """An env's preparation, step by step."""
    request = pb.CreateRuntimeEnvRequest(
        serialized_runtime_env=serialized(runtime_env),
        python=python or "",
        setup_timeout_seconds=setup_timeout_seconds,
        hold=hold,
        environment=dict(environment or {}),
    )
    return Call(f"{_ADMIN}CreateRuntimeEnv", request, pb.CreateRuntimeEnvEvent, wire.event, None)


def prefetch(
    runtime_envs: Iterable[RuntimeEnv],
    *,
    python: str | None,
    setup_timeout_seconds: int,
    environment: Mapping[str, str] | None,
    user: str,
    pin: bool,
) -> Call[messages.Prefetching]:
    """Several envs' preparation, step by step."""
    request = pb.PrefetchRequest(
        serialized_runtime_envs=map(serialized, runtime_envs),
        python=python or "",
        setup_timeout_seconds=setup_timeout_seconds,
        environment=dict(environment or {}),
        user=user,
        pin=pin,
    )
    return Call(f"{_ADMIN}Prefetch", request, pb.PrefetchEvent, wire.prefetching, None)


def get_or_create(
    runtime_env: RuntimeEnv, setup_timeout_seconds: int, job_id: str, source_process: str
) -> Call[Context]:
    """The raylet's own call."""
    request = ray_pb.GetOrCreateRuntimeEnvRequest(
        serialized_runtime_env=serialized(runtime_env),
        runtime_env_config=ray_pb.RuntimeEnvConfig(setup_timeout_seconds=setup_timeout_seconds),
        job_id=job_id.encode("ascii"),
        source_process=source_process,
    )

    def read(reply: ray_pb.GetOrCreateRuntimeEnvReply) -> Context:
        if reply.status != ray_pb.AGENT_RPC_STATUS_OK:
            raise EnvFailedError("failed", reply.error_message)
        return Context.parse(reply.serialized_runtime_env_context)

    return Call(f"{_RAY}GetOrCreateRuntimeEnv", request, ray_pb.GetOrCreateRuntimeEnvReply, read, None)


def delete(runtime_env: RuntimeEnv, source_process: str) -> Call[None]:
    """Gives back what :func:`get_or_create` took."""
    request = ray_pb.DeleteRuntimeEnvIfPossibleRequest(
        serialized_runtime_env=serialized(runtime_env), source_process=source_process
    )

    def read(reply: ray_pb.DeleteRuntimeEnvIfPossibleReply) -> None:
        if reply.status != ray_pb.AGENT_RPC_STATUS_OK:
            raise RemoteError("failed", reply.error_message)

    path = f"{_RAY}DeleteRuntimeEnvIfPossible"
    return Call(path, request, ray_pb.DeleteRuntimeEnvIfPossibleReply, read)


def envs_info(limit: int | None) -> Call[messages.EnvInfos]:
    """The envs of the gRPC session."""
    request = ray_pb.GetRuntimeEnvsInfoRequest(limit=limit)
    return Call(f"{_RAY}GetRuntimeEnvsInfo", request, ray_pb.GetRuntimeEnvsInfoReply, wire.infos)


def listing(token: str) -> Call[messages.Page]:
    """A page of objects and, if it is the first (``token`` empty), the sessions."""
    request = pb.ListRequest(page_size=_PAGE, page_token=token)
    return Call(f"{_ADMIN}List", request, pb.ListReply, wire.page)


def stats() -> Call[messages.Stats]:
    """Figures."""
    return Call(f"{_ADMIN}Stats", pb.StatsRequest(), pb.StatsReply, wire.stats)


def gc(target_bytes: int | None, *, dry_run: bool) -> Call[messages.Collection]:
    """Removing tens of thousands of files takes its time: no deadline."""
    request = pb.GcRequest(dry_run=dry_run, target_bytes=target_bytes)
    return Call(f"{_ADMIN}Gc", request, pb.GcReply, wire.collection, None)


def remove(object_id: str) -> Call[messages.Removed]:
    """One object."""
    return Call(
        f"{_ADMIN}Remove",
        pb.RemoveRequest(id=object_id),
        pb.RemoveReply,
        lambda reply: messages.Removed(reply.id, reply.freed_bytes),
        None,
    )


def pin(object_id: str, *, pinned: bool) -> Call[messages.Object]:
    """Pin or unpin."""
    path = f"{_ADMIN}{'Pin' if pinned else 'Unpin'}"
    return Call(path, pb.PinRequest(id=object_id), pb.PinReply, lambda reply: wire.stored(reply.object))


def verify(ids: Sequence[str], *, repair: bool) -> Call[messages.Verified]:
    """Objects, one after the other."""
    request = pb.VerifyRequest(ids=ids, repair=repair)
    return Call(f"{_ADMIN}Verify", request, pb.VerifyEvent, wire.verified, None)


def trace() -> Call[Happening]:
    """What is stored, then what happens."""
    return Call(f"{_ADMIN}Trace", pb.TraceRequest(), pb.TraceEvent, happening, None)


def drain(deadline_seconds: float) -> Call[int]:
    """Answers once nothing is in flight; the daemon's own deadline bounds it."""
    request = pb.DrainRequest(deadline_seconds=deadline_seconds)
    return Call(f"{_ADMIN}Drain", request, pb.DrainReply, lambda reply: int(reply.cancelled), None)


def health() -> Call[bool]:
    """Whether the daemon takes work (grpc.health.v1)."""
    serving = health_pb2.HealthCheckResponse.ServingStatus.SERVING
    return Call(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest(),
        health_pb2.HealthCheckResponse,
        lambda reply: bool(reply.status == serving),
        5.0,
    )
