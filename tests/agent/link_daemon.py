"""Stands in for the daemon in tests of the link: records hellos, answers HTTP on the sockets in them.

Told by the environment, since that is all that a link passes on: RAY_ENVD_SOCKET (control socket),
RAY_ENVD_TEST_FOLDER (where hellos and facts about this process are written as JSON), and, optional,
RAY_ENVD_TEST_ANSWERS (JSON list: the first answers, the last of them for good), RAY_ENVD_TEST_EXIT (say so
and exit with that code), RAY_ENVD_TEST_KILLED (so many starts end by SIGKILL), RAY_ENVD_TEST_HANG_UP (close
each connection after its answer).
"""

import fcntl
import json
import os
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

FOLDER = Path(os.environ["RAY_ENVD_TEST_FOLDER"])
ANSWERS = json.loads(os.environ.get("RAY_ENVD_TEST_ANSWERS", '[{"ok": true, "version": "fake"}]'))
EXIT_LOCKED = 5


def record(name: str, what: object) -> None:
    """A JSON file that appears whole."""
    aside = FOLDER / f"{name}.{os.getpid()}.aside"
    aside.write_text(json.dumps(what))
    aside.replace(FOLDER / name)


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve_http(listener: socket.socket) -> None:
    """Answers each connection with this process's pid, until the process ends."""
    listener.setblocking(True)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the link has shut the socket down
        connection.recv(65536)
        body = str(os.getpid()).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.close()


def serve(connection: socket.socket, number: int) -> None:
    """One hello, its answer, then silence until the link ends."""
    try:
        head, fds, _, _ = socket.recv_fds(connection, 4, 1)
        (size,) = struct.unpack(">I", head)
        hello = json.loads(exactly(connection, size))
        answer = ANSWERS[min(number, len(ANSWERS) - 1)]
        record(f"hello-{os.getpid()}-{number:03d}.json", hello)
        connection.sendall(json.dumps({**answer, "pid": os.getpid()}).encode() + b"\n")
        if answer.get("ok"):
            # Last, so that whoever had an answer by HTTP knows that the link had its own.
            threading.Thread(target=serve_http, args=(socket.socket(fileno=fds[0]),), daemon=True).start()
        if "RAY_ENVD_TEST_HANG_UP" not in os.environ:
            connection.recv(1)
    except (EOFError, OSError):
        pass
    record(f"ended-{os.getpid()}-{number:03d}.json", None)
    connection.close()


def main() -> int:
    """Listens where the real daemon would; one at a time, as with the real one's store."""
    descriptors = {fd: str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in range(3)}
    if "RAY_ENVD_TEST_EXIT" in os.environ:
        record(f"exited-{os.getpid()}.json", None)
        sys.stderr.write("no such store: these are my last words\n")
        return int(os.environ["RAY_ENVD_TEST_EXIT"])
    if len(list(FOLDER.glob("killed-*.json"))) < int(os.environ.get("RAY_ENVD_TEST_KILLED", "0")):
        record(f"killed-{os.getpid()}.json", None)
        os.kill(os.getpid(), signal.SIGKILL)
    lock = os.open(FOLDER / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        record(f"locked-{os.getpid()}.json", os.getpid())
        return EXIT_LOCKED
    path = os.environ["RAY_ENVD_SOCKET"] + ".link"
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    record(
        f"daemon-{os.getpid()}.json",
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "cwd": str(Path.cwd()),
            "environment": dict(os.environ),
            "descriptors": descriptors,
            "argv": sys.argv,
            "blocked_signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        },
    )
    number = 0
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, number), daemon=True).start()
        number += 1


if __name__ == "__main__":
    sys.exit(main())
