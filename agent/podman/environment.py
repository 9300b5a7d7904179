"""The environment in which podman runs: always the same one for a session, since it decides what podman sees.

Where images lie, who may pull them and which settings count is all read from variables. So the API service,
the containers of tools and those of workers get the same ones, made here of the raylet's environment.
"""

from collections.abc import Mapping
from pathlib import Path

from ray_envd.cache.owner import Owner

#: What podman, its libraries and its helpers read. Not CONTAINER_HOST, which would make it a remote client,
#: nor NOTIFY_SOCKET, which would make every container speak for the daemon's service.
_NAMES = frozenset(
    {
        "DBUS_SESSION_BUS_ADDRESS",
        "DOCKER_CONFIG",
        "GNUPGHOME",
        "HOME",
        "LANG",
        "LC_ALL",
        "LOGNAME",
        "REGISTRY_AUTH_FILE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "STORAGE_DRIVER",
        "STORAGE_OPTS",
        "TMPDIR",
        "TZ",
        "USER",
    }
)
_PREFIXES = ("CONTAINERS_", "XDG_")
_PROXIES = frozenset({"all_proxy", "ftp_proxy", "http_proxy", "https_proxy", "no_proxy"})
#: Runtimes and network helpers stand in sbin, which is on few users' PATH.
_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def podman_environment(owner: Owner, environment: Mapping[str, str]) -> dict[str, str]:
    """Podman's own environment for a user, made of his raylet's. Blocking, a few calls of the kernel."""
    kept = {name: value for name, value in environment.items() if _is_kept(name)}
    folders = [folder for folder in environment.get("PATH", "").split(":") if folder]
    kept["PATH"] = ":".join(dict.fromkeys([*folders, *_PATH]))
    kept.setdefault("HOME", owner.home)
    if owner.uid and "XDG_RUNTIME_DIR" not in kept:
        logged_in = Path(f"/run/user/{owner.uid}")
        if _is_own(logged_in, owner):
            kept["XDG_RUNTIME_DIR"] = str(logged_in)
    return kept


def _is_kept(name: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIXES) or name.lower() in _PROXIES


def _is_own(folder: Path, owner: Owner) -> bool:
    try:
        return folder.stat().st_uid == owner.uid
    except OSError:
        return False
