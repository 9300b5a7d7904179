"""The Rays of this node: known, attached, and to this daemon."""

from pathlib import Path

from ray_envd.agent.attach import AttachError, Status, status
from ray_envd.agent.config import link_socket
from ray_envd.agent.doctor.finding import Finding, fail, ok, warn


def ray(python: Path, socket: Path, *, asked_for: bool, daemon_answers: bool) -> Finding:
    """How the Ray of an interpreter stands.

    Args:
        python: the interpreter.
        socket: the daemon's control socket according to the settings.
        asked_for: it was named, so that it should have a Ray; else it just is on the PATH.
        daemon_answers: a daemon runs now.
    """
    check = f"ray of {python}"
    try:
        found = status(python)
    except AttachError as error:
        level = fail if asked_for else warn
        return level(
            check, error.message, error.remedy if asked_for else "name Ray's interpreter with --python"
        )
    return _standing(check, found, python, link_socket(socket), daemon_answers=daemon_answers)


def _standing(check: str, found: Status, python: Path, expected: Path, *, daemon_answers: bool) -> Finding:
    """How a Ray stands that is there; ``expected`` is the links' socket according to the settings."""
    ray_version = f"Ray {found.ray_version}"
    if not found.known:
        return warn(
            check,
            f"{ray_version} is not a version that this ray-envd knows",
            "upgrade ray-envd, or attach with --force and try it on a node that you can spare",
        )
    attach = f"run `ray-envd attach --python {python}`"
    if not found.attached or not found.current or not found.stock_kept:
        anew = " any more: it was installed anew" if found.stock_kept else ""
        state = "is attached, but not whole or not current" if found.attached else f"is not attached{anew}"
        return warn(
            check,
            f"{ray_version} {state}",
            attach if found.stock_kept or not found.attached else found.advice,
        )
    if found.socket is not None and found.socket != expected:
        return warn(
            check,
            f"{ray_version} is attached to {found.socket}, the settings say {expected}",
            f"{attach}, or correct --socket",
        )
    if found.daemon is None and not daemon_answers:
        return warn(
            check,
            f"{ray_version} is attached to a supervised daemon and none answers: nodes use Ray's own agent",
            "systemctl start ray-envd, or attach without --supervised",
        )
    return ok(check, f"{ray_version}, attached")
