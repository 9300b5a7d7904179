"""What of the host is in a worker's container: what Ray needs, and what the runtime env asks for."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ray_envd.agent.containers.policy import Policy
from ray_envd.agent.errors import DeniedError, EnvError, InvalidSpecError
from ray_envd.agent.image_spec import Mount
from ray_envd.agent.sessions import Session
from ray_envd.cache.owner import Owner, acting_as

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # noqa: S105 - a name
TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 - a name
_TLS_VARIABLES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
#: Nothing may cover these.
_KERNELS = (Path("/proc"), Path("/sys"), Path("/dev"))


def own_mounts(session: Session, objects: Path) -> tuple[Mount, ...]:
    """What every worker of a session has at the same paths as outside; blocking.

    Args:
        session: Ray's folders of it can be written; its keys can be read.
        objects: the owner's in the store, which can be read.
    """
    folders = [session.temp_dir, session.session_dir, session.runtime_env_dir, session.log_dir or ""]
    writable = _outermost(str(folder) for folder in folders)
    readable = [str(objects), *_keys(session)]
    with acting_as(session.owner):
        there = [path for path in readable if os.path.exists(path)]  # noqa: PTH110 - text all along
    kept = [path for path in dict.fromkeys(there) if not _is_below(path, writable)]
    return (
        *(Mount(path, path, read_only=False) for path in writable),
        *(Mount(path, path, read_only=True) for path in kept),
    )


def token_path(session: Session) -> str | None:
    """The file that holds the cluster's token; None where workers are told the token itself, or need none."""
    if not session.auth or session.environment.get(TOKEN_VARIABLE):
        return None
    home = session.environment.get("HOME") or session.owner.home
    return session.environment.get(TOKEN_PATH_VARIABLE) or f"{home}/.ray/auth_token"


def _keys(session: Session) -> list[str]:
    token = token_path(session)
    names = [session.environment.get(name, "") for name in _TLS_VARIABLES]
    return [path for path in (token, *names) if path and path.startswith("/")]


def _outermost(paths: Iterable[str]) -> list[str]:
    """Those that are below none of the others, each once."""
    found: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if path}, key=len):
        if not _is_below(path, found):
            found.append(path)
    return found


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def options(mounts: Iterable[Mount]) -> list[str]:
    """Arguments of ``podman run``; no path has a colon."""
    return [f"--volume={m.source}:{m.target}:{'ro' if m.read_only else 'rw'}" for m in mounts]


def asked_mounts(
    mounts: Iterable[Mount], policy: Policy, owner: Owner, field: str, *, ours: Iterable[Mount]
) -> list[Mount]:
    """What a runtime env wants mounted, by its real paths; blocking.

    Args:
        mounts: of the runtime env.
        policy: whose folders are allowed.
        owner: who must be able to reach them.
        field: for messages.
        ours: what is there anyway, which nothing may cover.

    Raises:
        DeniedError: one is outside of what is allowed.
        InvalidSpecError: there is no such thing, or it would cover something of ours.
    """
    found = []
    taken = [*(Path(mount.target) for mount in ours), *_KERNELS]
    with acting_as(owner):
        roots = [Path(os.path.realpath(root)) for root in policy.mounts]
        for mount in mounts:
            real = Path(os.path.realpath(mount.source))
            if not any(real.is_relative_to(root) for root in roots):
                raise _not_allowed(mount, policy, field)
            if not real.exists():
                raise InvalidSpecError(
                    f"{mount.source} is to be mounted and is not there",
                    field=field,
                    remedy="make it on every node",
                )
            _require_apart(Path(mount.target), taken, field)
            found.append(Mount(str(real), mount.target, mount.read_only))
    return found


def _not_allowed(mount: Mount, policy: Policy, field: str) -> EnvError:
    allowed = ", ".join(map(str, policy.mounts)) or "nothing"
    return DeniedError(
        f"{mount.source} may not be mounted: of this node, {allowed} may",
        field=field,
        remedy="have the daemon's setting container_mounts name a folder above it, links resolved",
    )


def _require_apart(target: Path, taken: Iterable[Path], field: str) -> None:
    for path in taken:
        if target.is_relative_to(path) or path.is_relative_to(target):
            raise InvalidSpecError(
                f"nothing can be mounted at {target}: {path} is there",
                field=field,
                remedy="choose another place in the container",
            )
