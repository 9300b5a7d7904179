"""Steps and failures of a preparation as messages; several calls stream them."""

from ray_envd.agent.errors import EnvError, Retry
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.progress import Event


def progress(event: Event) -> pb.ProgressEvent:
    """A step."""
    return pb.ProgressEvent(
        field=event.field, phase=event.phase, detail=event.detail, done=event.done, total=event.total
    )


def failure(error: EnvError) -> pb.CreateRuntimeEnvFailure:
    """Why there is no result."""
    return pb.CreateRuntimeEnvFailure(
        code=error.code, message=str(error), transient=error.retry is not Retry.PERMANENT
    )
