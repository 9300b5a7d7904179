"""Small things with a user's files: ``local://`` folders, and files that nobody else may read."""

import contextlib
import os
import secrets
from pathlib import Path

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.cache.owner import Owner, acting_as


def require_directory(path: Path, uri: str, field: str, owner: Owner) -> None:
    """Refuses a ``local://`` folder that is not on this node, or that the owner may not see.

    Such folders are on every node already; they are used in place, never copied and never removed.

    Raises:
        InvalidSpecError: there is no such folder for him.
    """
    with acting_as(owner):
        if path.is_dir():
            return
    raise InvalidSpecError(
        f"{uri} points to '{path}', which must already exist on every node",
        field=field,
        remedy="put the folder into the image of every node, or give a folder that Ray uploads",
    )


def write_private(path: Path, text: str, owner: Owner) -> None:
    """Writes a file that only its owner can read, whole or not at all; blocking."""
    with acting_as(owner):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        aside.replace(path)


def remove_private(path: Path, owner: Owner) -> None:
    """Removes what :func:`write_private` wrote; blocking."""
    with acting_as(owner), contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
