"""What the cluster's control store (GCS) knows of jobs, and of the tasks and actors that want a runtime env.

Asked rarely: each call costs the GCS, which is one for the whole cluster, a walk over the job's tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from ray_envd.agent.fetch.context import GcsEndpoint
from ray_envd.agent.fetch.gcs import channel_to
from ray_envd.agent.pb import gcs_state_pb2 as pb
from ray_envd.cache.owner import Owner

_JOBS = "/ray.rpc.JobInfoGcsService/GetAllJobInfo"
_TASKS = "/ray.rpc.TaskInfoGcsService/GetTaskEvents"
_ACTORS = "/ray.rpc.ActorInfoGcsService/GetAllActorInfo"
_DEADLINE = 5.0  # seconds
#: Tasks and actors of one job that are looked at; of one that has more, nothing is concluded.
_MOST = 1000
# Ray's TaskStatus and ErrorType (src/ray/protobuf/common.proto).
_FINISHED, _FAILED = 11, 12
_TASK_CANCELLED = 5


@dataclass(frozen=True, slots=True)
class EnvUse:
    """Which runtime envs of a job are wanted, serialized as the raylet sends them.

    Attributes:
        wanted: by tasks and actors that are not at their end.
        given_up: env -> when a task that wanted it was last cancelled, or an actor ended; seconds since
            1970, on the clock of the node that saw it.
    """

    wanted: frozenset[str]
    given_up: Mapping[str, float]


class GcsState:
    """Questions to one cluster's GCS. An async context manager, which holds the connection.

    Every question raises OSError where the GCS cannot answer now, and NotImplementedError where it never
    will: an older Ray, or a token that it does not accept.
    """

    def __init__(self, endpoint: GcsEndpoint, owner: Owner) -> None:
        """``owner`` is the user whose certificates are read, where there are any."""
        self._endpoint, self._owner = endpoint, owner
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """See the class.

        Raises:
            EnvError: a certificate cannot be read.
        """
        self._channel = await channel_to(self._endpoint, self._owner, "runtime_env")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See the class."""
        if self._channel is not None:
            await self._channel.close()

    async def is_over(self, job_id: str) -> bool:
        """Whether a job has ended and nothing of it lives on; False of one that the GCS does not know.

        Detached actors outlive their job's driver, and what they start is of the same job: Serve's controller
        starts replicas for weeks in the name of a script that deployed the first application.
        """
        request = pb.GetAllJobInfoRequest(
            job_or_submission_id=job_id, skip_submission_job_info_field=True, skip_is_running_tasks_field=True
        )
        reply = await self._ask(_JOBS, request, pb.GetAllJobInfoReply)
        if not any(job.is_dead for job in reply.job_info_list if job.job_id.hex() == job_id):
            return False
        actors = await self._actors(job_id)
        return actors is not None and all(each.state == pb.ActorTableData.DEAD for each in actors)

    async def env_use(self, job_id: str) -> EnvUse | None:
        """What a job's tasks and actors want; None if the GCS does not know all of them.

        Tasks are known to it a second after they were submitted or have changed (Ray's
        ``task_events_report_interval_ms``).
        """
        tasks = await self._tasks(job_id)
        actors = await self._actors(job_id)
        if tasks is None or actors is None:
            return None
        wanted: set[str] = set()
        given_up: dict[str, float] = {}

        def gave_up(env: str, when: float) -> None:
            given_up[env] = max(when, given_up.get(env, 0.0))

        for task in tasks:
            env, states = (
                task.task_info.runtime_env_info.serialized_runtime_env,
                task.state_updates.state_ts_ns,
            )
            if _FINISHED not in states and _FAILED not in states:
                wanted.add(env)
            elif task.state_updates.error_info.error_type == _TASK_CANCELLED:
                gave_up(env, states[_FAILED] / 1e9)
        for actor in actors:
            if actor.state != pb.ActorTableData.DEAD:
                wanted.add(actor.serialized_runtime_env)
            else:
                gave_up(actor.serialized_runtime_env, actor.end_time / 1e3)
        return EnvUse(frozenset(wanted), given_up)

    async def _tasks(self, job_id: str) -> list[pb.TaskEvents] | None:
        filters = pb.GetTaskEventsRequest.Filters(exclude_driver=True)
        filters.job_filters.add(predicate=pb.EQUAL, job_id=bytes.fromhex(job_id))
        filters.state_filters.add(predicate=pb.NOT_EQUAL, state="FINISHED")
        request = pb.GetTaskEventsRequest(limit=_MOST, filters=filters)
        reply = await self._ask(_TASKS, request, pb.GetTaskEventsReply)
        found = list(reply.events_by_task)
        is_whole = not (reply.num_truncated or reply.num_status_task_events_dropped) and len(found) < _MOST
        return found if is_whole else None

    async def _actors(self, job_id: str) -> list[pb.ActorTableData] | None:
        filters = pb.GetAllActorInfoRequest.Filters(job_id=bytes.fromhex(job_id))
        request = pb.GetAllActorInfoRequest(limit=_MOST, filters=filters)
        reply = await self._ask(_ACTORS, request, pb.GetAllActorInfoReply)
        found = list(reply.actor_table_data)
        return found if len(found) < _MOST else None

    async def _ask(self, method: str, request: Any, reply: Any) -> Any:
        assert self._channel is not None  # noqa: S101 - entered
        call = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=reply.FromString
        )
        try:
            return await call(request, metadata=self._endpoint.metadata, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() in {
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.PERMISSION_DENIED,
            }:
                raise NotImplementedError(error.code().name) from error
            raise OSError(error.code().name) from error
