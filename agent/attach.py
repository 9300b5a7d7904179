"""Putting the link in place of Ray's runtime-env agent, and taking it away again."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd import __version__
from ray_envd.agent.link.script import STOCK_NAME
from ray_envd.agent.link_files import LinkFiles
from ray_envd.agent.rays_python import KNOWN_VERSIONS, MAIN, AttachError, find_agent, is_known
from ray_envd.agent.stock_agent import is_link, settings_of, writing

__all__ = ["AttachError", "AttachReport", "Status", "attach", "detach", "status"]

START_SECONDS, RESTART_SECONDS = 10.0, 20.0
_MOST_PATH_BYTES = 107  # sun_path of unix(7), less its final NUL


@dataclass(frozen=True, slots=True)
class AttachReport:
    """What attach or detach did. ``changed`` is False where everything was as asked already."""

    python: Path
    agent_dir: Path
    ray_version: str
    changed: bool
    action: str


@dataclass(frozen=True, slots=True)
class Status:
    """How an interpreter's Ray stands.

    Attributes:
        attached: raylets of this Ray run the link.
        known: this version of Ray is one that attach accepts without force.
        link_version: version of ray-envd that attached it; None where it is not attached.
        current: the link is the very one of this ray-envd, whole, and compiled for this interpreter.
        stock_kept: Ray's own agent is there, to fall back on and for detach.
        socket: the daemon's socket for links; None: the default of whoever runs the raylet.
        daemon: how the link starts a daemon; None: it is supervised.
        advice: what to do; empty where nothing is.
    """

    python: Path
    agent_dir: Path
    ray_version: str
    known: bool
    attached: bool
    link_version: str | None
    current: bool
    stock_kept: bool
    socket: Path | None
    daemon: tuple[str, ...] | None
    advice: str


def attach(
    python: Path, *, socket: Path | None, daemon: list[str] | None, force: bool = False
) -> AttachReport:
    """Makes the raylets of this interpreter's Ray run the link. Blocking; may be repeated.

    Args:
        python: the interpreter that runs Ray.
        socket: the daemon's socket for links (its control socket's path + ``.link``); None: at run time,
            the system's daemon where one listens, else the default of the user who runs the raylet.
        daemon: argv that starts a daemon where none answers; None where a supervisor does that. It is
            told its socket by RAY_ENVD_SOCKET, so it must not name another.
        force: also for a version of Ray that is not known.

    Raises:
        AttachError: see its message and remedy.
    """
    _check(socket, daemon)
    found = find_agent(python)
    if not force and not is_known(found.ray_version):
        raise AttachError(
            f"Ray {found.ray_version} is not one of the versions that ray-envd {__version__} knows"
            f" ({KNOWN_VERSIONS})",
            "upgrade ray-envd, or use --force and try it on a node that you can spare",
        )
    settings: dict[str, Any] = {
        "version": __version__,
        "socket": None if socket is None else str(socket),
        "daemon": daemon,
        "ray_version": found.ray_version,
        "start_seconds": START_SECONDS,
        "restart_seconds": RESTART_SECONDS,
    }
    link = LinkFiles.own()
    bytecode = link.compiled(python)
    with writing(found.agent_dir) as files:
        action = files.put_link(link, bytecode, json.dumps(settings, indent=1).encode() + b"\n")
    return AttachReport(python, found.agent_dir, found.ray_version, action != "unchanged", action)


def detach(python: Path) -> AttachReport:
    """Restores Ray's own agent, byte for byte. Blocking; may be repeated.

    Raises:
        AttachError: see its message and remedy.
    """
    found = find_agent(python)
    with writing(found.agent_dir) as files:
        action = files.take_link()
    return AttachReport(python, found.agent_dir, found.ray_version, action != "unchanged", action)


def status(python: Path) -> Status:
    """Looks, and changes nothing. Blocking.

    Raises:
        AttachError: no such interpreter, or no Ray in it.
    """
    found = find_agent(python)
    agent_dir = found.agent_dir
    attached = is_link((agent_dir / MAIN).read_bytes())
    settings = settings_of(agent_dir) if attached else {}
    link_version = settings.get("version")
    current = LinkFiles.own().is_in(agent_dir, found.tag) and link_version == __version__
    stock_kept = (agent_dir / STOCK_NAME).is_file()
    socket, daemon = settings.get("socket"), settings.get("daemon")
    advice = _advice(
        attached=attached,
        current=current,
        stock_kept=stock_kept,
        same_ray=settings.get("ray_version") == found.ray_version,
    )
    return Status(
        python=python,
        agent_dir=agent_dir,
        ray_version=found.ray_version,
        known=is_known(found.ray_version),
        attached=attached,
        link_version=str(link_version) if link_version else None,
        current=current,
        stock_kept=stock_kept,
        socket=Path(socket) if socket else None,
        daemon=tuple(daemon) if daemon else None,
        advice=advice,
    )


def _advice(*, attached: bool, current: bool, stock_kept: bool, same_ray: bool) -> str:
    if not attached and stock_kept:
        return "Ray was installed anew after it was attached: run `ray-envd attach` again"
    if not attached:
        return "run `ray-envd attach`"
    if not stock_kept:
        return "Ray's own agent is missing: install Ray again, then run `ray-envd attach`"
    if not current or not same_ray:
        return "the link is of another version or not whole: run `ray-envd attach` again"
    return ""


def _check(socket: Path | None, daemon: list[str] | None) -> None:
    if socket is not None and (not socket.is_absolute() or len(os.fsencode(socket)) > _MOST_PATH_BYTES):
        raise AttachError(
            f"{socket} cannot be the path of a socket",
            f"use an absolute path of at most {_MOST_PATH_BYTES} bytes",
        )
    if daemon is not None and not (daemon and Path(daemon[0]).is_absolute()):
        raise AttachError(
            "the daemon's program is not an absolute path",
            "a raylet has another PATH: name the program in full",
        )
