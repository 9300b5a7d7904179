"""Making archives, honest and otherwise, and unpacking what must be refused."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_envd.cache.archive import ArchiveLimits, unpack
from ray_envd.cache.errors import UnsafeArchiveError

FORMATS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")
#: A file beside the folder, which no archive may touch.
SECRET = "outside"


def pack(path: Path, files: dict[str, bytes | None], form: str = "zip") -> Path:
    """An archive of these members; None is a folder."""
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data or b"", zipfile.ZIP_DEFLATED)
        return path
    mode = "w" if form == "tar" else f"w:{form.removeprefix('tar.')}"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # a mode that is put together
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data or b""))
    return path


def tar_of(path: Path, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar of these members exactly."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_link(name: str, target: str) -> Callable[[zipfile.ZipFile], None]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return lambda archive: archive.writestr(info, target)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def refused(archive: Path, place: Path, *, strip: bool = False, limits: ArchiveLimits | None = None) -> str:
    """Unpacks what must be refused; returns the message after checking that nothing was left or touched."""
    with pytest.raises(UnsafeArchiveError) as caught:
        unpack(archive, place / "target", strip_top_level=strip, limits=limits)
    assert list(place.iterdir()) == []
    assert (place.parent / SECRET).read_text() == "untouched"
    return str(caught.value)
