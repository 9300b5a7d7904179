"""``gcs://``: packages that Ray's driver put into the cluster's control store.

One unary call; the value arrives whole (Ray limits it, to 512 MiB unless told otherwise). The value's key is
the URI itself.
"""

import asyncio
import hashlib
import os
from functools import cache
from pathlib import Path

import grpc
import grpc.aio

from ray_envd.agent.errors import DownloadError, EnvError, NetworkError
from ray_envd.agent.fetch.context import GcsEndpoint
from ray_envd.agent.pb.gcs_kv_pb2 import InternalKVGetReply, InternalKVGetRequest
from ray_envd.cache.owner import Owner, acting_as

_METHOD = "/ray.rpc.InternalKVGcsService/InternalKVGet"
_DEADLINE = 300.0  # seconds: half a GiB at 2 MB/s
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # as Ray; a proxy would be the daemon's, not the raylet's
    ("grpc.use_local_subchannel_pool", 1),  # clusters come and go on the same address
)
#: Ray's own status (src/ray/common/status.h): no such key.
_NOT_FOUND = 17
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
    }
)
_DENIED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


async def get(key: str, endpoint: GcsEndpoint, owner: Owner, *, field: str) -> bytes:
    """The value of a key.

    Raises:
        DownloadError: there is no such value, or this node is not let in.
        NetworkError: the GCS cannot be reached.
    """
    async with await channel_to(endpoint, owner, field) as channel:
        call = channel.unary_unary(
            _METHOD,
            request_serializer=InternalKVGetRequest.SerializeToString,
            response_deserializer=InternalKVGetReply.FromString,
        )
        try:
            reply = await call(
                InternalKVGetRequest(key=key.encode()), metadata=endpoint.metadata, timeout=_DEADLINE
            )
        except grpc.aio.AioRpcError as error:
            raise _error(error, field) from error
    if reply.status.code == 0 and reply.value:
        return bytes(reply.value)
    if reply.status.code not in {0, _NOT_FOUND}:
        raise DownloadError(f"the GCS answers: {reply.status.message or reply.status.code}", field=field)
    raise DownloadError(
        f"the package {key} is not in the GCS; it may have been deleted early, because of a long upload or a "
        "restart of the cluster",
        field=field,
        remedy="set RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S on the driver to more seconds than the "
        "upload takes (default: 600); if that does not help, change any file of the package and run again",
    )


@cache
def _keep_runtime() -> None:
    """Keeps gRPC's asyncio runtime up; with the last channel it would end, and join a thread on the loop."""
    grpc.aio.init_grpc_aio()


async def channel_to(endpoint: GcsEndpoint, owner: Owner, field: str) -> grpc.aio.Channel:
    """A connection to the GCS; close it.

    Raises:
        DownloadError: a certificate cannot be read.
    """
    _keep_runtime()
    if endpoint.ca_cert is None and endpoint.server_cert is None and endpoint.server_key is None:
        return grpc.aio.insecure_channel(endpoint.address, options=_OPTIONS)
    try:
        root, key, chain = await asyncio.to_thread(_certificates, endpoint, owner)
    except OSError as error:
        raise DownloadError(
            f"a certificate for the GCS cannot be read: {error.strerror}",
            field=field,
            remedy="check RAY_TLS_CA_CERT, RAY_TLS_SERVER_CERT and RAY_TLS_SERVER_KEY",
        ) from error
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    return grpc.aio.secure_channel(endpoint.address, credentials, options=_OPTIONS)


def _certificates(endpoint: GcsEndpoint, owner: Owner) -> tuple[bytes | None, bytes | None, bytes | None]:
    with acting_as(owner):
        paths = (endpoint.ca_cert, endpoint.server_key, endpoint.server_cert)
        root, key, chain = (Path(path).read_bytes() if path else None for path in paths)
    return root, key, chain


def _error(error: grpc.aio.AioRpcError, field: str) -> EnvError:
    """Only the code's name is told: details hold addresses and are long."""
    code = error.code()
    if code in _TRANSIENT:
        return NetworkError(f"the GCS cannot be reached ({code.name})", field=field)
    if code in _DENIED:
        return DownloadError(
            f"the GCS does not let this node in ({code.name})",
            field=field,
            remedy="the raylet's token must be the cluster's: check RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH",
        )
    return DownloadError(f"the GCS refuses the request ({code.name})", field=field)


def save(value: bytes, destination: Path, owner: Owner) -> str:
    """Writes a value to a new file of its owner, mode 0600; blocking. Returns its sha256, hex.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with acting_as(owner), open(os.open(destination, flags, 0o600), "wb") as out:
        out.write(value)
    return hashlib.sha256(value).hexdigest()
