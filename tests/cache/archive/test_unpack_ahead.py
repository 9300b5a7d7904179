"""Unpacking while the archive comes: what is taken over, and that nothing of it is believed."""

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_makers import tree
from shelf import let_pass

from ray_envd.cache import archive_members
from ray_envd.cache.archive import Ahead, ArchiveLimits, unpack
from ray_envd.cache.errors import UnsafeArchiveError
from ray_envd.cache.owner import Owner, acting_as

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
LARGE = os.urandom(9 << 20) + bytes(1 << 20)
_CRC_IN_LIST, _NAME_IN_LIST = 16, 46


def packed(path: Path, method: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    """A zip of files in one folder, ``large`` the first of them."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in {"large": LARGE, **files}.items():
            about = zipfile.ZipInfo(f"top/{name}")
            about.external_attr = 0o100751 << 16
            archive.writestr(about, data, method)
    return path.read_bytes()


def open_files() -> list[str]:
    """What descriptors of this process lead to that has no name."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [name for link in links if "(deleted)" in (name := str(link.readlink()))]


def read_again(*_: object) -> None:
    """In place of what reads a zip's content."""
    raise AssertionError("content that was unpacked ahead is read again")


@pytest.fixture
def coming(tmp_path: Path, place: Path) -> Iterator[tuple[Path, Ahead]]:
    """A file that is empty yet, and what unpacks it ahead; afterwards nothing of it is open."""
    before = open_files()
    path = tmp_path / "coming"
    path.touch()
    ahead = Ahead(path, place, ArchiveLimits())
    yield path, ahead
    ahead.close()
    assert open_files() == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [1 << 20, (3 << 20) + 1, 1 << 30])
def test_large_files_are_taken_over(
    method: int,
    step: int,
    coming: tuple[Path, Ahead],
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the archive comes in pieces, they are not read again, and are what they would have been."""
    path, ahead = coming
    data = packed(tmp_path / "whole", method, second=LARGE[::-1])
    for begin in range(0, len(data), step):
        with path.open("ab") as file:
            file.write(data[begin : begin + step])
        ahead.advance()
    monkeypatch.setattr(archive_members, "pieces", read_again)
    path = path.rename(tmp_path / "elsewhere")
    done = unpack(path, place / "target", strip_top_level=True, ahead=ahead)
    assert (done.files, done.bytes) == (2, 2 * len(LARGE))
    assert tree(place / "target") == {"large": LARGE, "second": LARGE[::-1]}
    assert (place / "target" / "large").stat().st_mode & 0o7777 == 0o751
    assert list(place.iterdir()) == [place / "target"]


def test_what_has_not_come_is_unpacked_as_always(
    coming: tuple[Path, Ahead], tmp_path: Path, place: Path
) -> None:
    """Ahead of the rest or not at all: small files, and an archive whose last word came at the end."""
    path, ahead = coming
    data = packed(tmp_path / "whole", small=b"1")
    path.write_bytes(data[: 5 << 20])
    ahead.advance()
    ahead.advance()
    with path.open("ab") as file:
        file.write(data[5 << 20 :])
    unpack(path, place / "target", strip_top_level=True, ahead=ahead)
    assert tree(place / "target") == {"large": LARGE, "small": b"1"}


@pytest.mark.parametrize("method", METHODS)
def test_a_crc_that_differs_from_the_lists(
    method: int, coming: tuple[Path, Ahead], tmp_path: Path, place: Path
) -> None:
    """It is a damaged archive, as it is without anything unpacked ahead."""
    path, ahead = coming
    data = bytearray(packed(tmp_path / "whole", method))
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, entry + _CRC_IN_LIST, 7)
    path.write_bytes(data)
    ahead.advance()
    with pytest.raises(UnsafeArchiveError, match="CRC"):
        unpack(path, place / "target", strip_top_level=True, ahead=ahead)
    assert list(place.iterdir()) == []


def test_a_name_that_differs_from_the_lists(coming: tuple[Path, Ahead], tmp_path: Path, place: Path) -> None:
    """Two names for one content are refused, whichever was read first."""
    path, ahead = coming
    data = bytearray(packed(tmp_path / "whole"))
    data[data.rindex(b"PK\x01\x02") + _NAME_IN_LIST + len("top/")] = ord("L")
    path.write_bytes(data)
    ahead.advance()
    with pytest.raises(UnsafeArchiveError, match="differ in name"):
        unpack(path, place / "target", strip_top_level=True, ahead=ahead)
    assert list(place.iterdir()) == []


def test_what_the_list_does_not_name_is_dropped(
    coming: tuple[Path, Ahead], tmp_path: Path, place: Path
) -> None:
    """It stood before the list as a member does, and is none."""
    path, ahead = coming
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hidden", LARGE)
        archive.writestr("named", b"1")
        del archive.filelist[0], archive.NameToInfo["hidden"]
    ahead.advance()
    unpack(path, place / "target", strip_top_level=False, ahead=ahead)
    assert tree(place / "target") == {"named": b"1"}


def test_another_archive_takes_nothing(coming: tuple[Path, Ahead], tmp_path: Path, place: Path) -> None:
    """Though name, size and place are the same, it is unpacked itself."""
    path, ahead = coming
    path.write_bytes(packed(tmp_path / "whole"))
    ahead.advance()
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("top/large", LARGE[::-1])
    unpack(tmp_path / "other", place / "target", strip_top_level=True, ahead=ahead)
    assert tree(place / "target") == {"large": LARGE[::-1]}


def test_a_bomb_is_neither_unpacked_ahead_nor_at_all(
    coming: tuple[Path, Ahead], tmp_path: Path, place: Path
) -> None:
    """What breaks the limits is dropped at once."""
    path, ahead = coming
    before = open_files()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(80 << 20))
    ahead.advance()
    assert open_files() == before
    with pytest.raises(UnsafeArchiveError, match="more than 200 times"):
        unpack(path, place / "target", strip_top_level=False, ahead=ahead)
    assert list(place.iterdir()) == []


def test_it_stops_when_told(coming: tuple[Path, Ahead], tmp_path: Path, place: Path) -> None:
    """And goes on the next time."""
    path, ahead = coming
    path.write_bytes(packed(tmp_path / "whole"))
    asked: list[None] = []
    ahead.advance(lambda: len(asked) > 3 or asked.append(None) is not None)
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    assert ahead.take(info) is None
    ahead.advance()
    descriptor = ahead.take(info)
    assert descriptor is not None
    with open(descriptor, "rb") as file:
        assert os.fstat(file.fileno()).st_size == len(LARGE)
    assert ahead.take(info) is None


def test_a_file_system_without_nameless_files(
    coming: tuple[Path, Ahead], tmp_path: Path, place: Path
) -> None:
    """Nothing is unpacked ahead, and all of it later: here the folder cannot be written."""
    path, ahead = coming
    path.write_bytes(packed(tmp_path / "whole"))
    place.rmdir()
    place.touch()
    ahead.advance()
    place.unlink()
    place.mkdir()
    unpack(path, place / "target", strip_top_level=True, ahead=ahead)
    assert tree(place / "target") == {"large": LARGE}


def test_what_is_taken_over_is_the_owners(nobody: Owner, tmp_path: Path, place: Path) -> None:
    """It is made, and gets its name, with his rights."""
    let_pass(tmp_path)
    tmp_path.chmod(0o711)
    os.chown(place, nobody.uid, nobody.gid)
    packed(tmp_path / "whole")
    (tmp_path / "whole").chmod(0o644)
    with acting_as(nobody):
        ahead = Ahead(tmp_path / "whole", place, ArchiveLimits())
        ahead.advance()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive_members, "pieces", read_again)
            unpack(tmp_path / "whole", place / "target", strip_top_level=True, ahead=ahead)
        ahead.close()
    assert (place / "target" / "large").stat().st_uid == nobody.uid
    assert tree(place / "target") == {"large": LARGE}
