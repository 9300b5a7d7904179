"""``ray-envd doctor``: small checks, each of which says what it found and what to do about it."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import uv

from ray_envd.agent.config import Settings
from ray_envd.agent.doctor import containers, interpreter, store, tools
from ray_envd.agent.doctor import daemon as daemon_checks
from ray_envd.agent.doctor.finding import Finding, Level, fail, ok, warn
from ray_envd.agent.doctor.warm import warm_file
from ray_envd.cache.owner import Owner

__all__ = ["Finding", "Level", "examine", "settings_finding"]


def examine(
    settings: Settings, pythons: Sequence[Path], user: Owner | None = None, registries: Sequence[str] = ()
) -> list[Finding]:
    """Makes every check; blocking, some seconds, or as long as a podman that does not work takes.

    Args:
        settings: whose store, socket and port are looked at.
        pythons: interpreters of Ray; empty: the one on the PATH.
        user: as whom containers are tried; None: this process's user.
        registries: of images, ``host[:port]``.
    """
    finding, stats = daemon_checks.daemon(settings.socket)
    here = settings.store
    place = _made("store", lambda: store.folder(here))
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("uv", lambda: tools.uv(_uv())),
        ("store", lambda: place),
        ("mount options", lambda: store.noexec(here)),
        ("disk space", lambda: store.space(here, settings.min_free_bytes)),
        ("inodes", lambda: store.inodes(here)),
        *(() if place.level is Level.FAIL else _by_trying(here)),
        ("socket", lambda: daemon_checks.socket_folder(settings.socket)),
        ("daemon", lambda: finding),
        ("http", lambda: daemon_checks.http_port(settings.http)),
        ("warm file", lambda: warm_file(settings.warm_file)),
        ("user namespaces", tools.user_namespaces),
    ]
    if os.geteuid() == 0:
        checks.append(("other users", lambda: tools.other_users(sys.executable)))
    look = partial(
        interpreter.ray,
        socket=settings.socket,
        asked_for=bool(pythons),
        daemon_answers=stats is not None,
    )
    checks.extend((f"ray of {python}", partial(look, python)) for python in pythons or _on_path())
    return [*(_made(name, check) for name, check in checks), *_containers(user, registries)]


def _containers(user: Owner | None, registries: Sequence[str]) -> list[Finding]:
    """The environment of another user's raylets is not known: his home and the usual PATH must do."""
    owner = user or Owner.current()
    try:
        return containers.examine(owner, dict(os.environ) if owner.is_current else {}, registries)
    except OSError as error:
        return [_not_made("containers", error)]


def _by_trying(here: Path) -> list[tuple[str, Callable[[], Finding]]]:
    """Checks that write in the store. Not in one of another user: he could put links in root's way."""
    return [
        ("hard links", lambda: store.hard_links(here)),
        ("uv's cache", lambda: store.same_file_system(here)),
        ("clock", lambda: store.clock(here)),
    ]


def settings_finding(warnings: Sequence[str], origin: str) -> Finding:
    """The settings themselves; that they could be loaded is known by now."""
    if warnings:
        return warn("settings", "; ".join(warnings), "correct the name, or unset the variable")
    return ok("settings", f"valid ({origin})")


def _made(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except OSError as error:
        return _not_made(name, error)


def _not_made(name: str, error: OSError) -> Finding:
    remedy = f"run this as the daemon's user (this is uid {os.geteuid()}) or as root"
    return fail(name, store.reason(error), remedy)


def _uv() -> str | None:
    try:
        return uv.find_uv_bin()
    except FileNotFoundError:
        return shutil.which("uv")


def _on_path() -> list[Path]:
    found = shutil.which("python3")
    return [Path(found)] if found else []
