"""Archives: damage, lies and bombs are noticed."""

import bz2
import gzip
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from archive_makers import FORMATS, pack, refused

from ray_envd.cache.archive import ArchiveLimits, unpack


def _patch_entry(archive: Path, offset: int, value: int) -> None:
    """Sets a 32-bit number in the zip's local header and in its list of members."""
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, offset, value)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + offset + 2, value)
    archive.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("declared", [0, 10, 999])
def test_a_member_larger_than_declared_is_refused(
    method: int, declared: int, tmp_path: Path, place: Path
) -> None:
    """Even with a checksum that fits the part which was declared: a limit was checked against a lie."""
    with zipfile.ZipFile(tmp_path / "p", "w", method) as archive:
        archive.writestr("a", b"x" * 1000)
    _patch_entry(tmp_path / "p", 22, declared)
    _patch_entry(tmp_path / "p", 14, zlib.crc32(b"x" * declared))
    assert "'a'" in refused(tmp_path / "p", place) or "damaged" in refused(tmp_path / "p", place)


def test_a_member_smaller_than_declared_is_refused(tmp_path: Path, place: Path) -> None:
    """A file that ends early is a damaged file."""
    with zipfile.ZipFile(tmp_path / "p", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 1000)
    _patch_entry(tmp_path / "p", 22, 1001)
    assert "shorter" in refused(tmp_path / "p", place)


@pytest.mark.parametrize("form", FORMATS[:1] + FORMATS[2:])
def test_a_wrong_checksum_is_noticed(form: str, tmp_path: Path, place: Path) -> None:
    """Also one that stands after the last member, which a reader need not look at."""
    archive = pack(tmp_path / "p", {"a": os.urandom(1000)}, form)
    data = bytearray(archive.read_bytes())
    where = {
        "zip": data.rindex(b"PK\x01\x02") + 16 if form == "zip" else 0,
        "tar.gz": len(data) - 8,
        "tar.bz2": len(data) - 5,
        "tar.xz": len(data) - 60,
    }[form]
    data[where] ^= 0xFF
    archive.write_bytes(data)
    assert "damaged" in refused(archive, place)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_anywhere_is_noticed(form: str, tmp_path: Path, place: Path) -> None:
    """From the first byte to the last but one (a plain tar may lack its padding)."""
    archive = pack(tmp_path / "p", {"a/b": os.urandom(600), "c": b"1" * 700}, form)
    whole = archive.read_bytes()
    end = len(whole) if form != "tar" else 4 * 512 + 1
    for size in {*range(0, end, 97), end - 1}:
        archive.write_bytes(whole[:size])
        refused(archive, place)


def test_every_flipped_bit_of_a_header_is_noticed_or_harmless(tmp_path: Path, place: Path) -> None:
    """Whatever a damaged tar header says: refused in our words, or unpacked within the folder."""
    whole = pack(tmp_path / "p", {"a/b": b"1" * 600, "c": b"2"}, "tar").read_bytes()
    for position in range(0, 512, 3):
        data = bytearray(whole)
        data[1536 + position] ^= 0x41  # the second member's header
        (tmp_path / "p").write_bytes(data)
        refused(tmp_path / "p", place)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"no archive at all", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"PK\x03\x04" + b"x" * 99]
)
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path, place: Path) -> None:
    """Empty, foreign, or nothing but a beginning."""
    (tmp_path / "p").write_bytes(data)
    refused(tmp_path / "p", place)


def test_a_compressed_file_that_is_no_tar_is_refused(tmp_path: Path, place: Path) -> None:
    """Gzip alone says nothing."""
    (tmp_path / "p").write_bytes(gzip.compress(b"just text " * 100))
    assert "damaged" in refused(tmp_path / "p", place)


@pytest.mark.parametrize("form", FORMATS)
def test_the_limit_of_bytes_holds(form: str, tmp_path: Path, place: Path) -> None:
    """Over all files together, and exactly."""
    archive = pack(tmp_path / "p", {"a": b"1" * 600, "b": b"2" * 600}, form)
    assert "1199 bytes" in refused(archive, place, limits=ArchiveLimits(total_bytes=1199))
    unpack(archive, place / "target", strip_top_level=False, limits=ArchiveLimits(total_bytes=1200))


@pytest.mark.parametrize("form", FORMATS)
def test_the_limit_of_members_holds(form: str, tmp_path: Path, place: Path) -> None:
    """Folders count."""
    archive = pack(tmp_path / "p", {"a/": None, "b": b"", "c": b""}, form)
    assert "2 members" in refused(archive, place, limits=ArchiveLimits(members=2))
    unpack(archive, place / "target", strip_top_level=False, limits=ArchiveLimits(members=3))


@pytest.mark.parametrize("form", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_bomb_is_refused_and_a_small_text_is_not(form: str, tmp_path: Path, place: Path) -> None:
    """The ratio counts only above a floor."""
    archive = pack(tmp_path / "p", {"a": bytes(3_000_000)}, form)
    limits = ArchiveLimits(ratio=200, ratio_from_bytes=2_000_000)
    assert "200 times" in refused(archive, place, limits=limits)
    unpack(archive, place / "target", strip_top_level=False)


def test_overlapping_members_count_each(tmp_path: Path, place: Path) -> None:
    """A zip whose members share their bytes grows by its list, not by its content."""
    archive = pack(tmp_path / "p", {f"{n:05}": b"" for n in range(1)})
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("0", bytes(2_000_000))
        first = out.infolist()[0]
        for number in range(1, 50):
            twin = zipfile.ZipInfo(str(number))
            for name in ("CRC", "compress_size", "file_size", "header_offset", "compress_type"):
                setattr(twin, name, getattr(first, name))
            out.filelist.append(twin)
    message = refused(archive, place, limits=ArchiveLimits(ratio=200, ratio_from_bytes=10_000_000))
    assert "200 times" in message


def test_a_huge_header_is_not_taken_into_memory(tmp_path: Path, place: Path) -> None:
    """A tar may declare an extended header of gigabytes that compresses to nothing."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 * 1024**3
    with gzip.open(tmp_path / "p", "wb") as out:
        out.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20))
    assert "header of" in refused(tmp_path / "p", place)


def test_endless_padding_is_a_bomb(tmp_path: Path, place: Path) -> None:
    """What follows the last member is decompressed too, and counted."""
    archive = pack(tmp_path / "p", {"a": b"1"}, "tar")
    (tmp_path / "q").write_bytes(bz2.compress(archive.read_bytes() + bytes(3_000_000)))
    limits = ArchiveLimits(ratio=200, ratio_from_bytes=2_000_000)
    assert "200 times" in refused(tmp_path / "q", place, limits=limits)


def test_a_list_of_members_that_lies_about_its_length_is_counted(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members are counted before an object is made of any: a million of them fill the memory."""
    archive = pack(tmp_path / "p", {str(number): b"" for number in range(300)})
    data = bytearray(archive.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", data, end + 8, 1, 1)
    archive.write_bytes(data)
    monkeypatch.delattr(zipfile, "ZipInfo")
    assert "100 members" in refused(archive, place, limits=ArchiveLimits(members=100))
