"""The daemon, its socket and its port."""

import http.client
import os
import socket as sockets
import stat
from pathlib import Path

from ray_envd import __version__
from ray_envd.agent.client import Client, ClientError, DaemonUnavailableError, Stats
from ray_envd.agent.config_kinds import Address
from ray_envd.agent.config_sources import LONGEST_SOCKET
from ray_envd.agent.doctor.finding import Finding, fail, ok, warn
from ray_envd.cache.text import seconds_text

_SECONDS = 5


def socket_folder(socket: Path) -> Finding:
    """Who can write in the socket's folder can put another socket in its place."""
    check = "socket"
    folder, length = socket.parent, len(os.fsencode(socket))
    if not folder.exists():
        return ok(check, f"{socket} ({length} of {LONGEST_SOCKET} bytes); `ray-envd serve` makes the folder")
    about = folder.stat()
    if not stat.S_ISDIR(about.st_mode):
        return fail(check, f"{folder} is not a folder", "choose another path with --socket")
    open_to_all = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX
    if open_to_all:
        return fail(check, f"others may write in {folder} and replace the socket", f"chmod go-w {folder}")
    if about.st_uid not in {0, os.geteuid()}:
        return fail(
            check,
            f"{folder} belongs to uid {about.st_uid}, who can replace the socket",
            "choose another with --socket",
        )
    if os.geteuid() == 0 and not about.st_mode & stat.S_IXOTH:
        return warn(
            check,
            f"only root can enter {folder}: raylets of other users do not reach the daemon",
            f"chmod a+x {folder} (the control socket keeps its own mode 0600)",
        )
    return ok(check, f"{socket} ({length} of {LONGEST_SOCKET} bytes)")


def daemon(socket: Path) -> tuple[Finding, Stats | None]:
    """Whether it answers, and is of this version; and what it says of itself."""
    check = "daemon"
    try:
        with Client(socket) as client:
            stats = client.stats()
    except DaemonUnavailableError as error:
        return warn(check, error.message, error.remedy), None
    except ClientError as error:
        return fail(check, f"it answers with an error: {error.message}", error.remedy or "see its log"), None
    if stats.version != __version__:
        return (
            warn(
                check,
                f"it is of version {stats.version}, this is {__version__}",
                "restart it: `ray-envd drain`, or `systemctl restart ray-envd`",
            ),
            stats,
        )
    if stats.draining:
        return warn(check, f"pid {stats.pid} is draining: it takes no new work", "wait for its end"), stats
    if stats.damaged:
        return (
            warn(
                check,
                f"{stats.damaged} stored objects are damaged and kept for those who run on them",
                "`ray-envd verify` names both; look for a failing disk, or jobs that write into their env",
            ),
            stats,
        )
    return ok(
        check, f"version {stats.version}, pid {stats.pid}, up {seconds_text(stats.uptime_seconds)}"
    ), stats


def http_port(address: Address | None) -> Finding:
    """Whether metrics and health can be, or are, served there."""
    check = "http"
    if address is None:
        return ok(check, "switched off")
    where = f"{address[0]}:{address[1]}"
    if address[1] == 0:
        return ok(check, f"{where}: any free port")
    try:
        with sockets.create_server(address):
            return ok(check, f"{where} is free")
    except OSError as error:
        if _is_ours(address):
            return ok(check, f"a daemon answers on {where}")
        return warn(
            check,
            f"{where} cannot be had: {error.strerror}; a daemon would serve no metrics",
            "choose another with --http or RAY_ENVD_HTTP, or none",
        )


def _is_ours(address: Address) -> bool:
    connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return b"ray_envd_" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
