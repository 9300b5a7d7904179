"""What the node must have for podman without root's rights."""

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from ray_envd.agent.doctor.finding import Finding, fail, ok
from ray_envd.cache.owner import Owner, acting_as

_TABLES = Path("/etc")
_RANGE = 65_536
_MAPPERS = ("newuidmap", "newgidmap")


def subordinate_ids(owner: Owner, tables: Path = _TABLES) -> Finding:
    """The ids that the other users of an image get: subuid(5), subgid(5)."""
    check = "subordinate ids"
    user = owner.name or str(owner.uid)
    counts = [_granted(tables / name, owner) for name in ("subuid", "subgid")]
    remedy = (
        f"usermod --add-subuids 200000-265535 --add-subgids 200000-265535 {user} (a range that nobody else in"
        f" {tables / 'subuid'} has), then as {user}: podman system migrate"
    )
    if not all(counts):
        missing = " and ".join(
            name for name, count in zip(("subuid", "subgid"), counts, strict=True) if not count
        )
        return fail(check, f"{user} has none in {tables}/{missing}: podman cannot unpack images", remedy)
    if min(counts) < _RANGE:
        return fail(check, f"{user} has {min(counts)}, most images need {_RANGE}", remedy)
    return ok(check, f"{user} has {min(counts)}")


def _granted(path: Path, owner: Owner) -> int:
    """How many ids a table gives to a user: lines of ``user:first:count``, by name or number."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return 0
    entries = [line.split(":") for line in lines if line.count(":") == 2]  # noqa: PLR2004 - three fields
    return sum(
        int(count) for user, _, count in entries if user in {owner.name, str(owner.uid)} and count.isdecimal()
    )


def id_mappers(path: str) -> Finding:
    """Programs that write a user's ids into a namespace; they need root's right to do so."""
    check = "newuidmap"
    for name in _MAPPERS:
        program = shutil.which(name, path=path)
        if program is None:
            return fail(
                check,
                f"{name} is missing: users cannot run containers",
                "install it, on Debian: apt-get install uidmap",
            )
        if not Path(program).stat().st_mode & stat.S_ISUID and not _has_capabilities(program):
            return fail(
                check,
                f"{program} is neither setuid root nor has it CAP_SETUID",
                f"chmod u+s {program}, or install its package anew",
            )
    return ok(check, "newuidmap and newgidmap are there, with root's rights")


def _has_capabilities(program: str) -> bool:
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def runtime_folder(owner: Owner, environment: Mapping[str, str]) -> Finding:
    """Where podman keeps its locks and sockets; on a disk they would outlive a boot."""
    check = "XDG_RUNTIME_DIR"
    user = owner.name or str(owner.uid)
    remedy = f"loginctl enable-linger {user}, or name a folder of his (mode 0700) when you run `ray start`"
    folder = environment.get("XDG_RUNTIME_DIR")
    if folder is None:
        return fail(check, f"it is not set, and /run/user/{owner.uid} is not there", remedy)
    try:
        with acting_as(owner):
            about = Path(folder).stat()
    except OSError as error:
        return fail(check, f"{folder}: {error.strerror}", remedy)
    if about.st_uid != owner.uid:
        return fail(check, f"{folder} belongs to uid {about.st_uid}, not to {user}", remedy)
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fail(check, f"others can enter {folder}", f"chmod 700 {folder}")
    return ok(check, folder)
