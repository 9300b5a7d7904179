"""A link of a few lines: says hello for a raylet and holds the connection; the daemon serves the port."""

import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from processes import NodeError

from ray_envd.agent.config import link_socket
from ray_envd.agent.hello import PROTOCOL
from ray_envd.agent.sessions import process_start


@contextlib.contextmanager
def attached(control: Path, session: str, folder: Path) -> Iterator[int]:
    """The port on which a daemon serves a session whose raylet this process stands for.

    Args:
        control: the daemon's socket.
        session: the link's word for the session; with the same word, it comes back.
        folder: where the session's trees and logs go.

    Raises:
        NodeError: the daemon refuses.
    """
    words = {
        "protocol": PROTOCOL,
        "session": session,
        "python": sys.executable,
        "runtime_env_dir": str(folder),
        "log_dir": str(folder),
        "environment": dict(os.environ),
        "raylet_pid": os.getpid(),
        "raylet_start": process_start(os.getpid()),
    }
    body = json.dumps(words).encode()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(os.fspath(link_socket(control)))
        socket.send_fds(connection, [struct.pack(">I", len(body))], [listener.fileno()])
        connection.sendall(body)
        answer = json.loads(connection.makefile().readline())
        if not answer["ok"]:
            raise NodeError(f"the hello was refused: {answer}")
        yield listener.getsockname()[1]
