"""The first words of a link, as the daemon hears them."""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_envd.agent.hello import HelloError, receive, session_of

FACTS: dict[str, Any] = {
    "protocol": 1,
    "session": "boot-12-34",
    "python": "/ray/bin/python",
    "runtime_env_dir": "/tmp/ray/session/runtime_resources",
    "log_dir": "/tmp/ray/session/logs",
    "environment": {
        "PATH": "/bin",
        "RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB": "0.5",
        "RUNTIME_ENV_RETRY_TIMES": "7",
        "BAD_RUNTIME_ENV_CACHE_TTL_SECONDS": "x",
    },
    "auth": True,
    "token": "canary-token",
    "raylet_pid": os.getpid(),
}


def hear(send: Callable[[socket.socket], None]) -> Any:
    """What ``receive`` makes of what a peer sends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def speak() -> None:
        with theirs:
            send(theirs)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        with ours:
            return receive(ours)
    finally:
        speaker.join()


def message(facts: Any) -> bytes:
    body = json.dumps(facts).encode()
    return struct.pack(">I", len(body)) + body


def say(facts: Any, *, sockets: int = 1, listening: bool = True) -> Callable[[socket.socket], None]:
    def send(peer: socket.socket) -> None:
        made = [socket.socket() for _ in range(sockets)]
        for each in made:
            each.bind(("127.0.0.1", 0))
            if listening:
                each.listen()
        data = message(facts)
        socket.send_fds(peer, [data[:4]], [each.fileno() for each in made])
        peer.sendall(data[4:])
        for each in made:
            each.close()

    return send


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_hello_becomes_a_session_with_its_clusters_settings() -> None:
    """Variables of the raylet's environment hold for this session; one that is no number is ignored."""
    hello = hear(say(FACTS))
    try:
        session = session_of(hello)
        assert session.id == f"{os.geteuid()}-boot-12-34"
        assert session.owner.uid == os.geteuid()
        assert session.settings.cache_bytes == {"pip": 512 * 1024**2}
        assert session.settings.retry_times == 7
        assert session.settings.failure_ttl == 600
        assert hello.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    finally:
        hello.listener.close()


def test_what_is_kept_of_a_session_has_no_secrets() -> None:
    """Neither the token nor the environment is ever written down."""
    hello = hear(say(FACTS))
    hello.listener.close()
    facts = json.dumps(session_of(hello).facts())
    assert "canary" not in facts
    assert "RETRY" not in facts


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (say({**FACTS, "protocol": 2}), "protocol"),
        (say({**FACTS, "python": ""}), "python"),
        (say(["not", "an", "object"]), "protocol"),
        (say(FACTS, listening=False), "does not listen"),
        (lambda peer: peer.sendall(message(FACTS)), "no socket"),
        (lambda peer: peer.sendall(struct.pack(">I", 1 << 31)), "too long"),
        (lambda peer: peer.sendall(struct.pack(">I", 50) + b"short"), "ends early"),
        (lambda peer: peer.sendall(struct.pack(">I", 4) + b"{{{{"), "malformed"),
        (lambda _peer: None, "ends early"),
    ],
)
def test_malformed_hellos_are_refused_and_leak_no_descriptor(
    send: Callable[[socket.socket], None], words: str
) -> None:
    """Each says what was wrong; a socket that came along is closed."""
    before = open_descriptors()
    with pytest.raises(HelloError, match=words):
        hear(send)
    assert open_descriptors() == before
