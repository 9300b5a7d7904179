"""The first words of a link: length, JSON and the listening socket (the other side: ``link/session.py``)."""

import json
import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.cache.owner import Owner

PROTOCOL = 1
_LENGTH = struct.Struct(">I")
_MOST_BYTES = 4 * 1024**2  # an environment is limited to 128 KiB a string; this is generous
_PATIENCE = 5.0  # seconds for a link to finish its sentence
_SESSION = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_UCRED = struct.Struct("3i")


class HelloError(Exception):
    """A peer on the link's socket does not speak the protocol."""


@dataclass(frozen=True)
class Hello:
    """What a link said, and who it is according to the kernel."""

    facts: dict[str, Any]
    owner: Owner
    listener: socket.socket


def peer_owner(connection: socket.socket) -> Owner:
    """The user at the other end of a Unix socket (SO_PEERCRED, unix(7)): fixed when it connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, gid = _UCRED.unpack(raw)
    return Owner.of(uid, gid)


def receive(connection: socket.socket) -> Hello:
    """Reads a hello; blocking, at most five seconds, so call it in a thread.

    Raises:
        HelloError: it is malformed, too long, too slow or carries no listening TCP socket.
    """
    connection.settimeout(_PATIENCE)
    descriptors: list[int] = []
    try:
        head, descriptors, _flags, _address = socket.recv_fds(connection, _LENGTH.size, 1)
        if len(head) < _LENGTH.size:
            head += _exactly(connection, _LENGTH.size - len(head))
        (size,) = _LENGTH.unpack(head)
        if size > _MOST_BYTES:
            raise HelloError(f"a hello of {size} bytes is too long")
        facts = _checked(json.loads(_exactly(connection, size)))
        hello = Hello(facts, peer_owner(connection), _listener(descriptors))
    except (OSError, ValueError) as error:
        raise HelloError(f"malformed hello: {error}") from error
    else:
        descriptors = []
        return hello
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 16))
        if not part:
            raise HelloError("the hello ends early")
        parts += part
    return bytes(parts)


def _checked(facts: Any) -> dict[str, Any]:
    if not isinstance(facts, dict) or facts.get("protocol") != PROTOCOL:
        raise HelloError(f"the link does not speak protocol {PROTOCOL}: run `ray-envd attach` again")
    missing = [
        name for name in ("session", "python", "runtime_env_dir", "environment") if not facts.get(name)
    ]
    if missing:
        raise HelloError(f"the hello lacks {', '.join(missing)}")
    return facts


def _listener(descriptors: list[int]) -> socket.socket:
    if len(descriptors) != 1:
        raise HelloError("the hello carries no socket")
    listener = socket.socket(fileno=descriptors[0])
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise HelloError("the socket of the hello does not listen")
    listener.setblocking(False)
    return listener


def session_of(hello: Hello) -> Session:
    """The session that a hello describes. Only the owner is not the link's own word.

    Raises:
        HelloError: what it says makes no session.
    """
    try:
        return _session(hello.facts, hello.owner)
    except (AttributeError, TypeError, ValueError) as error:
        raise HelloError(f"malformed hello: {error}") from error


def _session(facts: dict[str, Any], owner: Owner) -> Session:
    logging = facts.get("logging") or {}
    return Session(
        # The uid keeps one user from speaking for another's session.
        id=f"{owner.uid}-{_name(facts['session'])}",
        owner=owner,
        python=str(facts["python"]),
        environment={str(k): str(v) for k, v in facts["environment"].items()},
        runtime_env_dir=_folder(facts["runtime_env_dir"]),
        log_dir=_folder(facts["log_dir"]) if facts.get("log_dir") else None,
        session_dir=str(facts.get("session_dir") or ""),
        temp_dir=str(facts.get("temp_dir") or ""),
        gcs_address=str(facts.get("gcs_address") or ""),
        node_ip=str(facts.get("node_ip") or ""),
        ray_version=str(facts.get("ray_version") or ""),
        token=facts.get("token") or None,
        auth=bool(facts.get("auth")),
        raylet_pid=int(facts.get("raylet_pid") or 0),
        raylet_start=int(facts.get("raylet_start") or 0),
        rotate_bytes=int(logging.get("rotate_bytes") or Session.rotate_bytes),
        rotate_count=int(logging.get("rotate_backup_count") or Session.rotate_count),
        settings=SessionSettings.of(facts["environment"]),
    )


def _name(session: object) -> str:
    if not isinstance(session, str) or _SESSION.fullmatch(session) is None:
        raise ValueError("it names no session")
    return session


def _folder(path: str) -> Path:
    folder = Path(path)
    if not folder.is_absolute() or "\0" in path:
        raise ValueError("a folder in it is no absolute path")
    return folder
