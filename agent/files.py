"""``local://`` folders: already on every node, used in place, never copied and never removed."""

from pathlib import Path

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.cache.owner import Owner, acting_as


def require_directory(path: Path, uri: str, field: str, owner: Owner) -> None:
    """Refuses a ``local://`` folder that is not on this node, or that the owner may not see.

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
