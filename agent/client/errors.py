"""What a call can fail with; one place turns gRPC's errors into these."""

import errno
import os
import socket
from pathlib import Path

import grpc

_PROBE_SECONDS = 1.0


class ClientError(Exception):
    """Base of all that a client raises on purpose.

    Attributes:
        code: stable name for programs.
        message: one or more lines for people.
        remedy: what to do; may be empty.
    """

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        """See the class: the arguments are its attributes."""
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


class DaemonUnavailableError(ClientError):
    """No daemon answers there."""

    def __init__(self, message: str, remedy: str) -> None:
        """Its code is always ``unavailable``."""
        super().__init__("unavailable", message, remedy)


class RemoteError(ClientError):
    """The daemon refused a call; ``code`` is gRPC's, in small letters, e.g. ``not_found``."""


class EnvFailedError(ClientError):
    """The runtime env could not be prepared.

    Attributes:
        transient: another attempt may succeed without any change; None where the daemon does not say.
    """

    def __init__(self, code: str, message: str, *, transient: bool | None = None) -> None:
        """``code`` is one of ``ray_envd.agent.errors``, or ``failed`` where the daemon gives none."""
        super().__init__(code, message)
        self.transient = transient


def from_rpc(error: grpc.RpcError, target: str) -> ClientError:
    """The typed error of a failed call to ``target`` (a path, or host:port); asks the socket why."""
    status: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if status is grpc.StatusCode.UNAVAILABLE:
        return unavailable(target, details)
    remedy = ""
    if status is grpc.StatusCode.UNAUTHENTICATED:
        remedy = "give the token of the daemon's tcp_token_file"
    elif status is grpc.StatusCode.UNIMPLEMENTED:
        remedy = "the daemon is of another version: restart it (`ray-envd doctor` compares)"
    elif status is grpc.StatusCode.DEADLINE_EXCEEDED:
        remedy = "the daemon is alive and slow: see its log, or try again"
    return RemoteError(status.name.lower(), details or status.name, remedy)


def unavailable(target: str, details: str = "") -> DaemonUnavailableError:
    """Why nobody answers at ``target``, as far as this machine can tell; blocks up to a second."""
    if not target.startswith("/"):
        return DaemonUnavailableError(
            f"no daemon answers at {target}{': ' if details else ''}{details}",
            "check the address, and that the daemon's setting `tcp` is on",
        )
    reason = _why(target)
    if reason is None:
        return DaemonUnavailableError(
            f"the daemon at {target} ended the connection{': ' if details else ''}{details}",
            "it stopped, or refuses this user: try again, or run this as the daemon's user or as root",
        )
    if reason in {errno.EACCES, errno.EPERM}:
        return DaemonUnavailableError(
            f"this user may not use the socket {target}{_owner_of(target)}",
            "run this as the daemon's user or as root",
        )
    what = "a daemon was there and is gone" if reason == errno.ECONNREFUSED else "there is no such socket"
    return DaemonUnavailableError(
        f"no daemon listens on {target}: {what}",
        "start one (`systemctl start ray-envd`, or `ray-envd serve`), or name its socket with --socket"
        " or RAY_ENVD_SOCKET",
    )


def _why(path: str) -> int | None:
    """The error number of a plain connect; None if somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno or errno.ENOENT
    return None


def _owner_of(path: str) -> str:
    try:
        return f" (it belongs to uid {Path(path).stat().st_uid}, this is uid {os.geteuid()})"
    except OSError:
        return ""
