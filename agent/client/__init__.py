"""A typed client of the daemon's gRPC socket, for programs and for the command line.

It needs neither Ray nor a daemon in this process, and works beside Ray (whose messages have the same
names: ours live in a descriptor pool of their own).

    with Client("/run/ray-envd/ray-envd.sock") as client:
        with client.hold({"pip": ["six"]}) as created:
            subprocess.run(["bash", "-c", created.context.command(["python", "-m", "six"])], ...)
"""

from ray_envd.agent.client.aio import AsyncClient
from ray_envd.agent.client.blocking import Client
from ray_envd.agent.client.context import Context
from ray_envd.agent.client.errors import (
    ClientError,
    DaemonUnavailableError,
    EnvFailedError,
    RemoteError,
)
from ray_envd.agent.client.messages import (
    Collection,
    Created,
    EnvInfo,
    EnvInfos,
    Event,
    Listing,
    Object,
    Prefetched,
    Prefetching,
    Progress,
    Removed,
    Session,
    Stats,
    User,
    Verified,
    Victim,
    short_id,
)
from ray_envd.agent.client.traces import Happening

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Collection",
    "Context",
    "Created",
    "DaemonUnavailableError",
    "EnvFailedError",
    "EnvInfo",
    "EnvInfos",
    "Event",
    "Happening",
    "Listing",
    "Object",
    "Prefetched",
    "Prefetching",
    "Progress",
    "RemoteError",
    "Removed",
    "Session",
    "Stats",
    "User",
    "Verified",
    "Victim",
    "short_id",
]
