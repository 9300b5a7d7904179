"""Telling systemd how the daemon is: the datagrams of sd_notify(3), for which no library is needed.

Every function is free to be called when nobody asked (no ``NOTIFY_SOCKET``), and never fails: a supervisor
that cannot be told is no reason to stop. A datagram to a Unix socket does not block for a supervisor that
reads; where its queue is full, the word is dropped.
"""

import contextlib
import os
import socket

#: The whole of a datagram, far below what a Unix socket takes.
_MOST_STATUS_BYTES = 1024


def ready(status: str = "") -> None:
    """The daemon serves (``READY=1``)."""
    _send("READY=1", status)


def stopping(status: str = "") -> None:
    """The daemon drains (``STOPPING=1``)."""
    _send("STOPPING=1", status)


def say(status: str) -> None:
    """One line for people, shown by ``systemctl status`` (``STATUS=``)."""
    _send("", status)


def watchdog() -> None:
    """The event loop still turns (``WATCHDOG=1``)."""
    _send("WATCHDOG=1")


def _send(word: str, status: str = "") -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    lines = [word] if word else []
    if status:
        lines.append("STATUS=" + " ".join(status.split())[:_MOST_STATUS_BYTES])
    # "@" stands for the NUL that begins a name of the abstract namespace.
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)
