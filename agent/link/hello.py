"""What a link tells a daemon of its raylet, and where it looks for one; ``agent/hello.py`` hears it."""

from __future__ import annotations

import os
import sys

from . import FallbackError
from .raylet import start_ticks, version_of

PROTOCOL = 1
#: A daemon run by root serves every user, so a link without a socket of its own asks there first.
SYSTEM_SOCKET = "/run/ray-envd/ray-envd.sock.link"


def cluster_token(version: tuple[int, int]) -> tuple[bool, str | None]:
    """Whether the cluster's calls carry a token, and which: Ray's own rules (read off 2.52 to 2.60).

    Raises:
        FallbackError: Kubernetes checks the tokens, or there is none: stock does the one, and says the other.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if version < (2, 52) or mode not in ("token", "k8s"):
        return False, None
    if os.environ.get("RAY_ENABLE_K8S_TOKEN_AUTH", "").lower() in ("1", "true") or (
        mode == "k8s" and version < (2, 54)
    ):
        raise FallbackError("Kubernetes checks this cluster's tokens, which ray-envd cannot")
    if mode == "k8s":
        return False, None  # no mode that these versions know, so as good as off
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        path = path or os.path.join(os.environ.get("HOME") or "/nonexistent", ".ray", "auth_token")
        try:
            with open(path, encoding="utf-8") as file:
                token = file.read()
        except (OSError, ValueError) as error:
            raise FallbackError(f"token authentication is on, and {path} cannot be read: {error}") from error
    if not token.strip():
        raise FallbackError("token authentication is on, and the token is empty")
    return True, token.strip()


def hello_of(flags: dict[str, str], ray_version: str, raylet: int, port: int) -> dict[str, object]:
    """All that the daemon has to know of this raylet.

    Raises:
        FallbackError: the raylet did not say where runtime envs go, or see :func:`cluster_token`.
    """
    runtime_env_dir = flags.get("runtime-env-dir")
    if not runtime_env_dir:
        raise FallbackError("the raylet gave no --runtime-env-dir")
    session_dir = flags.get("session-dir") or os.path.dirname(runtime_env_dir.rstrip("/"))
    auth, token = cluster_token(version_of(ray_version))
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        boot = file.read(8)
    started = start_ticks(raylet)
    return {
        "protocol": PROTOCOL,
        "session": f"{boot}-{raylet}-{started}",
        "node_id": flags.get("node-id"),
        "node_ip": flags.get("node-ip-address"),
        "session_dir": session_dir,
        "gcs_address": flags.get("gcs-address"),
        "cluster_id": flags.get("cluster-id-hex"),
        "runtime_env_dir": runtime_env_dir,
        "log_dir": flags.get("log-dir") or os.path.join(session_dir, "logs"),
        "temp_dir": flags.get("temp-dir") or os.path.dirname(session_dir),
        "logging": {
            "rotate_bytes": number(flags, "logging-rotate-bytes"),
            "rotate_backup_count": number(flags, "logging-rotate-backup-count"),
            "level": flags.get("logging-level"),
            "format": flags.get("logging-format"),
        },
        "python": sys.executable,
        "ray_version": ray_version,
        "raylet_pid": raylet,
        "raylet_start": started,
        "pid": os.getpid(),
        "port": port,
        "environment": dict(os.environ),
        "auth": auth,
        "token": token,
    }


def number(flags: dict[str, str], name: str) -> int | None:
    """A flag as a number; None if there is none, or if it is something else."""
    try:
        return int(flags[name])
    except (KeyError, ValueError):
        return None


def sockets(settings: dict[str, object]) -> list[str]:
    """Where daemons listen for links, best first; the last is where this link would start one."""
    control = os.environ.get("RAY_ENVD_SOCKET")
    if control:
        return [control + ".link"]
    if settings.get("socket"):
        return [str(settings["socket"])]
    if os.geteuid() == 0:
        return [SYSTEM_SOCKET]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return [SYSTEM_SOCKET, os.path.join(runtime, "ray-envd", "ray-envd.sock.link")]
    home = os.environ.get("HOME") or "/nonexistent"
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
    store = os.environ.get("RAY_ENVD_STORE") or os.path.join(state, "ray-envd")
    return [SYSTEM_SOCKET, os.path.join(store, "run", "ray-envd.sock.link")]
