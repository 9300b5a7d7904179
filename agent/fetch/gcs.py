"""``gcs://``: packages that Ray's driver put into the cluster's control store.

One unary call; the value arrives whole (Ray limits it, to 512 MiB unless told otherwise). The value's key is
the URI itself.
"""

import asyncio
import ctypes
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from ray_envd.agent.errors import DownloadError, EnvError, NetworkError
from ray_envd.agent.fetch.context import GcsEndpoint
from ray_envd.agent.pb.gcs_kv_pb2 import GcsStatus, InternalKVGetReply, InternalKVGetRequest
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.writing import write_all

_libc = ctypes.CDLL(None)
_METHOD = "/ray.rpc.InternalKVGcsService/InternalKVGet"
_DEADLINE = 300.0  # seconds: half a GiB at 2 MB/s
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # as Ray; a proxy would be the daemon's, not the raylet's
    ("grpc.use_local_subchannel_pool", 1),  # clusters come and go on the same address
)
#: Bytes of a message whose pieces are worth giving back.
_LARGE = 8 * 1024**2
#: Bytes between two reports.
_STEP = 16 * 1024**2
#: How protobuf writes numbers, and what has a length.
_VARINT, _BYTES = 0, 2
_SEVEN_BITS, _LONGEST_VARINT = 0x7F, 10
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


async def get(key: str, endpoint: GcsEndpoint, owner: Owner, *, field: str) -> memoryview:
    """The value of a key.

    Raises:
        DownloadError: there is no such value, or this node is not let in.
        NetworkError: the GCS cannot be reached.
    """
    credentials = await _credentials(endpoint, owner, field)
    reply = await _ask(InternalKVGetRequest(key=key.encode()), endpoint, credentials, field)
    try:
        status, value = _parts(reply)
    except (ValueError, IndexError, DecodeError) as error:
        raise DownloadError("the GCS answers nonsense", field=field) from error
    if status.code == 0 and value:
        return value
    if status.code not in {0, _NOT_FOUND}:
        raise DownloadError(f"the GCS answers: {status.message or status.code}", field=field)
    raise DownloadError(
        f"the package {key} is not in the GCS; it may have been deleted early, because of a long upload or a "
        "restart of the cluster",
        field=field,
        remedy="set RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S on the driver to more seconds than the "
        "upload takes (default: 600); if that does not help, change any file of the package and run again",
    )


async def _ask(
    request: InternalKVGetRequest,
    endpoint: GcsEndpoint,
    credentials: grpc.ChannelCredentials | None,
    field: str,
) -> bytes:
    """The reply as it came, of which half a GiB may be one value.

    Not by ``grpc.aio``, which puts the pieces of a message together on the event loop: here a thread of
    gRPC's does. Nor is it parsed there, which would copy it once more.
    """
    channel = (
        grpc.insecure_channel(endpoint.address, options=_OPTIONS)
        if credentials is None
        else grpc.secure_channel(endpoint.address, credentials, options=_OPTIONS)
    )
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        loop.call_soon_threadsafe(done.set)

    try:
        method: grpc.UnaryUnaryMultiCallable[InternalKVGetRequest, bytes] = channel.unary_unary(
            _METHOD, request_serializer=InternalKVGetRequest.SerializeToString
        )
        call = method.future(request, metadata=endpoint.metadata, timeout=_DEADLINE)
        try:
            call.add_done_callback(tell)
            await done.wait()
            reply: bytes = call.result()
        finally:
            call.cancel()
    except grpc.RpcError as error:
        raise _error(error, field) from error
    finally:
        await asyncio.shield(asyncio.to_thread(channel.close))
    if len(reply) > _LARGE:
        loop.run_in_executor(None, _give_back)
    return reply


def _give_back() -> None:
    """Gives the memory of a message's pieces back to the system, of which malloc keeps half otherwise."""
    trim = getattr(_libc, "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _parts(reply: bytes) -> tuple[GcsStatus, memoryview]:
    """Status and value of an ``InternalKVGetReply``, the value where it is.

    Protobuf's own parser copies it twice: 0.6 s for 500 MB, with Python's lock held, in which no hit would be
    answered. The wire format is that of protobuf, https://protobuf.dev/programming-guides/encoding/.

    Raises:
        ValueError, IndexError, DecodeError: it is no such message.
    """
    status, value, left = GcsStatus(), memoryview(b""), memoryview(reply)
    while left:
        tag, left = _varint(left)
        size, left = _varint(left)
        if tag & 7 == _VARINT:
            continue
        if tag & 7 != _BYTES or size > len(left):
            raise ValueError("no reply of the key-value service")
        content, left = left[:size], left[size:]
        if tag >> 3 == InternalKVGetReply.STATUS_FIELD_NUMBER:
            status = GcsStatus.FromString(bytes(content))
        elif tag >> 3 == InternalKVGetReply.VALUE_FIELD_NUMBER:
            value = content
    return status, value


def _varint(data: memoryview) -> tuple[int, memoryview]:
    """A number in pieces of seven bits, the lowest first, and what comes after it."""
    value = 0
    for position in range(_LONGEST_VARINT):
        value |= (data[position] & _SEVEN_BITS) << 7 * position
        if data[position] <= _SEVEN_BITS:
            return value, data[position + 1 :]
    raise ValueError("a number without an end")


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
    credentials = await _credentials(endpoint, owner, field)
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint.address, options=_OPTIONS)
    return grpc.aio.secure_channel(endpoint.address, credentials, options=_OPTIONS)


async def _credentials(endpoint: GcsEndpoint, owner: Owner, field: str) -> grpc.ChannelCredentials | None:
    """The certificates with which the GCS is asked; None where it has none."""
    if endpoint.ca_cert is None and endpoint.server_cert is None and endpoint.server_key is None:
        return None
    try:
        root, key, chain = await asyncio.to_thread(_certificates, endpoint, owner)
    except OSError as error:
        raise DownloadError(
            f"a certificate for the GCS cannot be read: {error.strerror}",
            field=field,
            remedy="check RAY_TLS_CA_CERT, RAY_TLS_SERVER_CERT and RAY_TLS_SERVER_KEY",
        ) from error
    return grpc.ssl_channel_credentials(root, key, chain)


def _certificates(endpoint: GcsEndpoint, owner: Owner) -> tuple[bytes | None, bytes | None, bytes | None]:
    with acting_as(owner):
        paths = (endpoint.ca_cert, endpoint.server_key, endpoint.server_cert)
        root, key, chain = (Path(path).read_bytes() if path else None for path in paths)
    return root, key, chain


def _error(error: grpc.RpcError, field: str) -> EnvError:
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


def save(value: memoryview, destination: Path, owner: Owner, report: Callable[[int], object]) -> str:
    """Writes a value to a new file of its owner, mode 0600; blocking. Returns its sha256, hex.

    ``report`` is called now and then with the bytes that were written, by the calling thread.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(hashlib.sha256, value)
        with acting_as(owner), open(os.open(destination, flags, 0o600), "wb", buffering=0) as out:
            for begin in range(0, len(value), _STEP):
                write_all(out.fileno(), value[begin : begin + _STEP])
                report(min(begin + _STEP, len(value)))
        return digest.result().hexdigest()
