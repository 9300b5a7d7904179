"""``local://`` folders: already on every node, used in place, never copied and never removed."""

from pathlib import Path

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.cache.owner import Owner, acting_as


_SCHEME = "local://"
_ARCHIVES = (".zip", ".whl", ".jar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def local_directory(uri: str, field: str) -> Path | None:
    """The folder of a ``local://`` URI; None for every other URI.

    Raises:
        InvalidSpecError: the path is not absolute, or names an archive.
    """
    if not uri.lower().startswith("local:"):
        return None
    path = uri[len(_SCHEME) :]
    if not uri.startswith(_SCHEME) or not path.startswith("/") or "\0" in path:
        raise InvalidSpecError(
            f"{uri!r} is not a local URI with an absolute path",
            field=field,
            remedy="write local:///path/in/image",
        )
    if path.endswith(_ARCHIVES):
        raise InvalidSpecError(
            f"{uri!r} names an archive, and a local folder is used in place",
            field=field,
            remedy="unpack it in the image, or give it as file:///path/archive.zip",
        )
    return Path(path)


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
