"""gRPC: our services, health and reflection, on the gated Unix socket and, if wanted, on TCP with a token."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ray_envd.agent.grpc_timing import TimedService
from ray_envd.agent.metrics import Metrics
from ray_envd.agent.pb import POOL, admin_pb2, admin_pb2_grpc, runtime_env_pb2, runtime_env_pb2_grpc
from ray_envd.agent.tcp_token import TokenInterceptor

_UNLIMITED = [
    ("grpc.max_receive_message_length", 64 * 1024**2),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]
_SERVICES = (
    runtime_env_pb2.DESCRIPTOR.services_by_name["RuntimeEnvService"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name


class GrpcServer:
    """Both listeners with the same services."""

    def __init__(
        self,
        runtime_env: runtime_env_pb2_grpc.RuntimeEnvServiceServicer,
        admin: admin_pb2_grpc.AdminServiceServicer,
        metrics: Metrics,
    ) -> None:
        self._runtime_env: Any = TimedService(runtime_env, metrics)
        self._admin: Any = TimedService(admin, metrics)
        self._servers: list[aio.Server] = []
        self._health = health.aio.HealthServicer()

    async def start_unix(self, path: Path) -> None:
        """Listens on a Unix socket whose folder keeps others out."""
        server = self._make(())
        server.add_insecure_port(f"unix:{path}")
        await server.start()

    async def start_tcp(self, address: str, token: str) -> int:
        """Listens on TCP for callers who have the token; returns the port."""
        server = self._make((TokenInterceptor(token),))
        port: int = server.add_insecure_port(address)
        await server.start()
        return port

    def _make(self, interceptors: tuple[aio.ServerInterceptor, ...]) -> aio.Server:
        server = aio.server(options=_UNLIMITED, interceptors=interceptors)
        # Generated code has no annotations.
        runtime_env_pb2_grpc.add_RuntimeEnvServiceServicer_to_server(self._runtime_env, server)  # type: ignore[no-untyped-call]  # see above
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)  # type: ignore[no-untyped-call]  # see above
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(), server)
        self._servers.append(server)
        return server

    async def set_serving(self, serving: bool) -> None:  # noqa: FBT001 - the state itself
        """What the health service answers, for the daemon and for each service."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        state = status.SERVING if serving else status.NOT_SERVING
        for name in ("", *_SERVICES):
            await self._health.set(name, state)

    async def stop(self, grace: float) -> None:
        """Accepts no calls, lets those under way end for so many seconds, then cancels them."""
        for server in self._servers:
            await server.stop(grace)


class _Reflection:
    """gRPC's own reflection service, which is loaded when somebody asks it: it takes 1 MiB."""

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's name
        """A conversation."""
        reflection = await asyncio.to_thread(importlib.import_module, "grpc_reflection.v1alpha.reflection")
        names = (*_SERVICES, health.SERVICE_NAME, _REFLECTION)
        service = reflection.aio.ReflectionServicer(names, pool=_pool())
        async for reply in service.ServerReflectionInfo(requests, context):
            yield reply


def _pool() -> Any:
    """Our own descriptors and those of health and reflection, which reflection shows beside them."""
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        try:
            POOL.FindFileByName(file.name)
        except KeyError:
            POOL.AddSerializedFile(file.serialized_pb)
    return POOL
