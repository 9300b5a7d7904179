"""A daemon's gRPC side for tests of the client and the command line: real sockets, canned data."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.pb import admin_pb2_grpc, runtime_env_pb2_grpc
from ray_envd.agent.pb import runtime_env_pb2 as ray_pb

TOKEN = "open-sesame"
ENV = "python-env/" + "ab12" * 16
TREE = "archive/" + "cd34" * 16
CONTEXT = (
    '{"command_prefix": ["cd", "/", "&&"], "env_vars": {"GREETING": "hello"}, "py_executable": "python3"}'
)


def objects() -> list[pb.Object]:
    return [
        pb.Object(
            id=ENV,
            kind="python-env",
            summary="idna==3.7, six==1.16.0",
            bytes=12_345_678,
            exclusive_bytes=45_678,
            created_ms=1_700_000_000_000,
            last_used_ms=1_700_000_100_000,
            uses=7,
            references=2,
            build_seconds=1.5,
            owner_uid=0,
        ),
        pb.Object(
            id=TREE,
            kind="archive",
            summary="gcs://_ray_pkg_abc.zip [bold]",
            bytes=999,
            exclusive_bytes=999,
            created_ms=1_700_000_000_000,
            last_used_ms=1_700_000_200_000,
            uses=1,
            pinned=True,
            owner_uid=1000,
        ),
    ]


@dataclass
class FakeDaemon(admin_pb2_grpc.AdminServiceServicer, runtime_env_pb2_grpc.RuntimeEnvServiceServicer):
    """Records requests; ``holding`` is set while a caller holds an env."""

    context: str = CONTEXT
    failure: pb.CreateRuntimeEnvFailure | None = None
    version: str = "0.1.0"
    damaged: int = 0
    repaired: bool = False
    steps: list[pb.ProgressEvent] = field(
        default_factory=lambda: [
            pb.ProgressEvent(field="pip", phase="resolving"),
            pb.ProgressEvent(field="pip", phase="downloading", detail="six", done=5, total=10),
            pb.ProgressEvent(field="working_dir", phase="unpacking", done=3),
        ]
    )
    requests: list[Any] = field(default_factory=list)
    holding: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    references: int = 0
    further: list[pb.Object] = field(default_factory=list)  # on the second page
    slow: bool = False  # never gets from the steps to the result

    def CreateRuntimeEnv(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        for step in self.steps:
            yield pb.CreateRuntimeEnvEvent(progress=step)
        if self.slow:
            self._wait_for_the_caller_to_go(context)
            return
        if self.failure is not None:
            yield pb.CreateRuntimeEnvEvent(failure=self.failure)
            return
        yield pb.CreateRuntimeEnvEvent(
            result=pb.CreateRuntimeEnvResult(
                serialized_runtime_env_context=self.context,
                cache_hit=False,
                seconds=0.0404,
                objects=[ENV, TREE],
            )
        )
        if request.hold:
            self.holding.set()
            self._wait_for_the_caller_to_go(context)

    def Prefetch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        count = len(request.serialized_runtime_envs)
        for step in self.steps:
            for index in range(count):
                yield pb.PrefetchEvent(index=index, progress=step)
        for index in reversed(range(count)):
            if self.failure is not None and index == 0:
                yield pb.PrefetchEvent(index=index, failure=self.failure)
            else:
                result = pb.PrefetchResult(cache_hit=index == 0, seconds=0.0404, objects=[ENV])
                yield pb.PrefetchEvent(index=index, result=result)

    def _wait_for_the_caller_to_go(self, context: Any) -> None:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(30)
        self.released.set()

    def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        session = pb.Session(
            id="0-abc",
            session_dir="/tmp/ray/session_1",
            ray_version="2.60.0",
            python="/opt/ray/bin/python",
            raylet_pid=4711,
            started_ms=1_700_000_000_000,
            envs=2,
            references=5,
            connected=True,
        )
        if request.page_token:
            return pb.ListReply(objects=self.further)
        token = "further" if request.page_size and self.further else ""
        return pb.ListReply(objects=objects(), sessions=[session], next_page_token=token)

    def Stats(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return pb.StatsReply(
            version=self.version,
            pid=4242,
            uptime_seconds=3700,
            store="/var/lib/ray-envd",
            objects=2,
            object_bytes=12_346_677,
            apparent_bytes=30_000_000,
            exclusive_bytes=2_346_677,
            other_bytes=500_000,
            uv_cache_bytes=1_000_000,
            budget_bytes=100_000_000,
            disk_free_bytes=10**9,
            disk_total_bytes=10**10,
            sessions=1,
            references=2,
            hits=30,
            misses=10,
            builds=9,
            failures=1,
            resident_bytes=50_000_000,
            damaged=self.damaged,
            warm_wanted=5,
            warm_ready=3,
            warm_failed=1,
        )

    def Verify(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        whole, bad = objects()
        yield pb.VerifyEvent(done=1, total=2, object=whole, unlike_record=["lib/odd.py", "lib/other.py"])
        user = pb.VerifyUser(session_id="0-abc", session_dir="/tmp/ray/s1", runtime_env="{...}", references=3)
        yield pb.VerifyEvent(
            done=2,
            total=2,
            object=bad,
            damage="archive has changed",
            files=[f"file{number}" for number in range(12)],
            freed_bytes=777 if self.repaired else None,
            users=[] if self.repaired else [user],
        )

    def Gc(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        victim = pb.GcVictim(
            object=objects()[1],
            reason="not used for 3 days, above the high watermark",
            frees_bytes=777,
            worth=12.345,
        )
        return pb.GcReply(victims=[victim], freed_bytes=999, remaining_bytes=12_345_678)

    def _found(self, object_id: str, context: Any) -> Any:
        for each in objects():
            if each.id.startswith(object_id) or each.id.partition("/")[2].startswith(object_id):
                return each
        return context.abort(grpc.StatusCode.NOT_FOUND, f"there is no object {object_id}")

    def Remove(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        found = self._found(request.id, context)
        if found.references:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{found.id} is in use")
        return pb.RemoveReply(id=found.id, freed_bytes=found.bytes)

    def Pin(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        found = self._found(request.id, context)
        found.pinned = True
        return pb.PinReply(object=found)

    def Unpin(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        found = self._found(request.id, context)
        found.pinned = False
        return pb.PinReply(object=found)

    def Drain(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        return pb.DrainReply(cancelled=1)

    def GetOrCreateRuntimeEnv(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        if self.failure is not None:
            return ray_pb.GetOrCreateRuntimeEnvReply(status=1, error_message=self.failure.message)
        self.references += 1
        return ray_pb.GetOrCreateRuntimeEnvReply(serialized_runtime_env_context=self.context)

    def DeleteRuntimeEnvIfPossible(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if not self.references:
            return ray_pb.DeleteRuntimeEnvIfPossibleReply(status=1, error_message="not referenced")
        self.references -= 1
        return ray_pb.DeleteRuntimeEnvIfPossibleReply()

    def GetRuntimeEnvsInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        state = ray_pb.RuntimeEnvState(runtime_env="{}", ref_cnt=2, success=True, creation_time_ms=40)
        return ray_pb.GetRuntimeEnvsInfoReply(runtime_env_states=[state, ray_pb.RuntimeEnvState()], total=9)


class _Token(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if ("authorization", f"Bearer {TOKEN}") in details.invocation_metadata:
            return continuation(details)

        def refuse(_request: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")

        return grpc.unary_unary_rpc_method_handler(refuse)


def start(daemon: FakeDaemon, address: str | Path, *, token: bool = False) -> tuple[grpc.Server, int]:
    """Serves on a socket's path or ``host:0``; returns the server and the port."""
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[_Token()] if token else [])
    admin_pb2_grpc.add_AdminServiceServicer_to_server(daemon, server)
    runtime_env_pb2_grpc.add_RuntimeEnvServiceServicer_to_server(daemon, server)
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"unix:{address}" if isinstance(address, Path) else address)
    server.start()
    return server, port
