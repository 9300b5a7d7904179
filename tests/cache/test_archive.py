"""Archives: what is unpacked, what is refused, and that a refusal leaves nothing."""

import bz2
import gzip
import io
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_envd.cache.archive import ArchiveLimits, UnpackCancelledError, Unpacked, unpack
from ray_envd.cache.errors import UnsafeArchiveError

FORMATS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")
SECRET = "outside"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds nothing but the target, beside a file that no archive may touch."""
    (tmp_path / SECRET).write_text("untouched")
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def pack(path: Path, files: dict[str, bytes | None], form: str = "zip") -> Path:
    """An archive of these members; None is a folder."""
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data or b"", zipfile.ZIP_DEFLATED)
        return path
    mode = "w" if form == "tar" else f"w:{form.removeprefix('tar.')}"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
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


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_unpacked_whatever_its_name(form: str, tmp_path: Path, place: Path) -> None:
    """The content tells the format; files, folders and counts are right."""
    archive = pack(tmp_path / "package", {"empty/": None, "a/b/c.py": b"code", "d": b"x" * 300_000}, form)
    done = unpack(archive, place / "target", strip_top_level=False)
    assert done == Unpacked(files=2, bytes=300_004)
    assert tree(place / "target") == {"a/b/c.py": b"code", "d": b"x" * 300_000}
    assert (place / "target" / "empty").is_dir()
    assert list(place.iterdir()) == [place / "target"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["top/a", "top/b/c"], {"a", "b/c"}),
        (["top/", "top/a"], {"a"}),
        (["top/a", "other/b"], {"top/a", "other/b"}),
        (["top/a", "b"], {"top/a", "b"}),
        (["b", "top/a"], {"top/a", "b"}),
    ],
)
def test_a_single_top_level_folder_is_left_out(
    form: str, names: list[str], expected: set[str], tmp_path: Path, place: Path
) -> None:
    """With strip_top_level one folder that holds everything goes, and nothing else does."""
    files = {name: None if name.endswith("/") else b"" for name in names}
    unpack(pack(tmp_path / "p", files, form), place / "target", strip_top_level=True)
    assert set(tree(place / "target")) == expected


def test_the_folder_that_macos_adds_is_ignored_in_a_zip(tmp_path: Path, place: Path) -> None:
    """__MACOSX beside the one folder neither prevents the stripping nor survives it; unstripped it stays."""
    archive = pack(tmp_path / "p", {"__MACOSX/._a": b"", "top/a": b"1"})
    unpack(archive, place / "target", strip_top_level=True)
    assert tree(place / "target") == {"a": b"1"}
    unpack(archive, place / "whole", strip_top_level=False)
    assert set(tree(place / "whole")) == {"__MACOSX/._a", "top/a"}


def test_a_tar_whose_names_begin_with_a_dot_is_stripped(tmp_path: Path, place: Path) -> None:
    """GNU tar writes ./top/a; the dot is no folder."""
    archive = pack(tmp_path / "p", {"./": None, "./top": None, "./top/a": b"1"}, "tar.gz")
    unpack(archive, place / "target", strip_top_level=True)
    assert tree(place / "target") == {"a": b"1"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../outside", "'..'"),
        ("a/../../outside", "'..'"),
        ("a/..", "'..'"),
        ("/etc/outside", "absolute"),
        ("//etc/outside", "absolute"),
        ("C:/outside", "drive"),
        ("c:outside", "drive"),
        ("..\\outside", "backslash"),
        ("a\\b", "backslash"),
    ],
)
def test_names_that_lead_out_are_refused(
    form: str, name: str, rule: str, tmp_path: Path, place: Path
) -> None:
    """The message names the member and the rule."""
    message = refused(pack(tmp_path / "p", {"good": b"1", name: b"2"}, form), place)
    assert rule in message
    assert repr(name) in message


def test_a_nul_character_in_a_name_is_refused(tmp_path: Path, place: Path) -> None:
    """Python cuts such a name short without a word, so that two tools would see different files."""
    archive = pack(tmp_path / "p", {"good.txtXevil": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"good.txtXevil", b"good.txt\0evil"))
    assert "NUL" in refused(archive, place)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ("a", "a", "twice"),
        ("a/b", "a//b", "twice"),
        ("a/b", "./a/./b", "twice"),
        ("a", "a/b", "to be a folder"),
        ("a/b", "a", "twice"),
    ],
)
def test_two_members_of_one_name_are_refused(  # noqa: PLR0917 - parameters of the case
    form: str, first: str, second: str, rule: str, tmp_path: Path, place: Path
) -> None:
    """Also when only the normalised names are equal, or one would have to be file and folder."""
    path = tmp_path / "p"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive, pytest.warns() if first == second else _nothing():
            archive.writestr(first, "1")
            archive.writestr(second, "2")
    else:
        mode = "w" if form == "tar" else f"w:{form.removeprefix('tar.')}"
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for name in (first, second):
                tar.addfile(tarfile.TarInfo(name))
    assert rule in refused(path, place)


class _nothing:  # noqa: N801 - reads as what it is in a with statement
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_names_that_differ_in_case_or_repeat_a_folder_are_fine(tmp_path: Path, place: Path) -> None:
    """Case matters on Linux, and a folder may be named as often as one likes."""
    unpack(
        pack(tmp_path / "p", {"a": b"1", "A": b"2", "d/": None, "d/x": b"3", "d//": None}),
        place / "target",
        strip_top_level=False,
    )
    assert tree(place / "target") == {"a": b"1", "A": b"2", "d/x": b"3"}


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../outside", "..", "a/../../outside", "../../place/target/a", ""]
)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_links_that_point_outside_are_refused(form: str, target: str, tmp_path: Path, place: Path) -> None:
    """Absolute or climbing, also one that comes back to where the folder will be."""
    path = tmp_path / "p"
    if form == "tar":
        tar_of(path, link("l", target))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            zip_link("l", target)(archive)
    assert "link" in refused(path, place)


def test_a_link_that_leads_outside_by_way_of_another_is_refused(tmp_path: Path, place: Path) -> None:
    """Word by word `d/e/a/../x` lies inside; with `a` a link to the root it is the file beside the folder."""
    archive = tar_of(
        tmp_path / "p", link("d/e/a", "../.."), link("d/e/b", "a/../outside"), (tarfile.TarInfo("d/f"), b"1")
    )
    assert "by way of others" in refused(archive, place)


def test_a_link_out_of_the_stripped_folder_is_refused(tmp_path: Path, place: Path) -> None:
    """What is inside the archive can be outside of the folder that remains of it."""
    archive = tar_of(tmp_path / "p", (tarfile.TarInfo("top/a"), b"1"), link("top/l", "../top/a"))
    assert "outside" in refused(archive, place, strip=True)
    crooked = tar_of(
        tmp_path / "q",
        link("top/d/e/a", "../.."),
        link("top/d/e/b", "a/../top/f"),
        (tarfile.TarInfo("top/f"), b"1"),
    )
    assert "by way of others" in refused(crooked, place, strip=True)
    unpack(archive, place / "target", strip_top_level=False)
    assert (place / "target/top/l").read_bytes() == b"1"


@pytest.mark.parametrize("first", [link("d", "."), link("d", ".."), link("d", "/tmp")])
def test_nothing_is_written_through_a_link(first: tarfile.TarInfo, tmp_path: Path, place: Path) -> None:
    """A member below the name of a link is refused, wherever the link points."""
    archive = tar_of(tmp_path / "p", first, (tarfile.TarInfo("d/outside"), b"evil"))
    assert "to be a folder" in refused(archive, place)


@pytest.mark.parametrize("order", [1, -1])
def test_links_inside_are_made(order: int, tmp_path: Path, place: Path) -> None:
    """Symbolic and hard, to files and folders, also when the link comes before what it names."""
    members: list[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]] = [
        (tarfile.TarInfo("top/d/a"), b"1"),
        link("top/l", "d/a"),
        link("top/folder", "d"),
        link("top/d/up", "../d/a"),
        link("top/dangling", "nothing"),
        link("top/hard", "top/d/a", tarfile.LNKTYPE),
    ]
    unpack(tar_of(tmp_path / "p", *members[::order]), place / "target", strip_top_level=True)
    target = place / "target"
    assert [(target / name).read_bytes() for name in ("l", "folder/a", "d/up", "hard")] == [b"1"] * 4
    assert (target / "l").readlink() == Path("d/a")
    assert (target / "hard").stat().st_ino == (target / "d/a").stat().st_ino


def test_a_link_of_a_zip_is_a_link(tmp_path: Path, place: Path) -> None:
    """Info-ZIP does so too (Ray's own unpacking writes the target's name into a file)."""
    with zipfile.ZipFile(tmp_path / "p", "w") as archive:
        archive.writestr("a", "1")
        zip_link("l", "a")(archive)
    unpack(tmp_path / "p", place / "target", strip_top_level=False)
    assert (place / "target/l").readlink() == Path("a")


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "nothing", "l", "d"])
def test_hard_links_name_files_of_the_archive_only(target: str, tmp_path: Path, place: Path) -> None:
    """Not a file beside the folder, not itself, not a folder."""
    archive = tar_of(tmp_path / "p", link("l", target, tarfile.LNKTYPE), (tarfile.TarInfo("d/x"), b""))
    assert (
        "'l'" in refused(archive, place)
        or "'..'" in refused(archive, place)
        or "absolute" in refused(archive, place)
    )


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(kind: bytes, tmp_path: Path, place: Path) -> None:
    """In a tar by their type."""
    member = tarfile.TarInfo("d")
    member.type = kind
    assert "device" in refused(tar_of(tmp_path / "p", member), place)


def test_devices_in_a_zip_are_refused(tmp_path: Path, place: Path) -> None:
    """In a zip by their mode."""
    info = zipfile.ZipInfo("d")
    info.external_attr = (stat.S_IFIFO | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "p", "w") as archive:
        archive.writestr(info, "")
    assert "device" in refused(tmp_path / "p", place)


def test_encrypted_members_are_refused(tmp_path: Path, place: Path) -> None:
    """There is nobody to ask for a password."""
    archive = pack(tmp_path / "p", {"a": b"1"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flags of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the list of members
    archive.write_bytes(data)
    assert "encrypted" in refused(archive, place)


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o755, 0o755), (0o6755, 0o755), (0o1777, 0o777), (0o400, 0o600), (0o111, 0o711), (0, 0o644)],
)
def test_modes_are_kept_without_the_dangerous_bits(
    form: str, mode: int, expected: int, tmp_path: Path, place: Path
) -> None:
    """Setuid, setgid and sticky go; the owner can always read and write."""
    if form == "tar":
        member = tarfile.TarInfo("a")
        member.mode = mode
        tar_of(tmp_path / "p", (member, b"1"))
    else:
        info = zipfile.ZipInfo("a")
        info.external_attr = mode and (stat.S_IFREG | mode) << 16
        with zipfile.ZipFile(tmp_path / "p", "w") as archive:
            archive.writestr(info, "1")
            if not mode:
                info.external_attr = 0
    unpack(tmp_path / "p", place / "target", strip_top_level=False)
    assert stat.S_IMODE((place / "target/a").stat().st_mode) == expected


def test_folders_do_not_depend_on_the_umask(tmp_path: Path, place: Path) -> None:
    """Named or implied, the worker's container may read them; a named one keeps its mode but for u+rwx."""
    named = tarfile.TarInfo("named")
    named.type, named.mode = tarfile.DIRTYPE, 0o2050
    old = os.umask(0o077)
    try:
        unpack(
            tar_of(tmp_path / "p", named, (tarfile.TarInfo("implied/a"), b"")),
            place / "target",
            strip_top_level=False,
        )
    finally:
        os.umask(old)
    modes = {p: stat.S_IMODE((place / "target" / p).stat().st_mode) for p in ("", "implied", "named")}
    assert modes == {"": 0o755, "implied": 0o755, "named": 0o750}


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


def test_a_list_of_members_that_lies_about_its_length_is_counted(tmp_path: Path, place: Path) -> None:
    """The members are counted before an object is made of each."""
    archive = pack(tmp_path / "p", {str(number): b"" for number in range(300)})
    data = bytearray(archive.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", data, end + 8, 1, 1)
    archive.write_bytes(data)
    assert "100 members" in refused(archive, place, limits=ArchiveLimits(members=100))


def test_a_name_that_is_too_long_is_refused(tmp_path: Path, place: Path) -> None:
    """What the file system refuses is the archive's fault, not the disk's."""
    assert "longer" in refused(pack(tmp_path / "p", {"n" * 300: b""}, "tar"), place)
    assert "longer" in refused(pack(tmp_path / "q", {f"{'d' * 200}/" * 30 + "x": b""}, "tar"), place)
    assert "deep" in refused(pack(tmp_path / "r", {"d/" * 2500 + "x": b""}, "tar"), place)


def test_a_cancelled_unpacking_leaves_nothing(tmp_path: Path, place: Path) -> None:
    """Also in the middle of one large file."""
    archive = pack(tmp_path / "p", {"a": b"1", "large": os.urandom(5 << 20)}, "tar.gz")
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked == 12

    with pytest.raises(UnpackCancelledError):
        unpack(archive, place / "target", strip_top_level=False, cancelled=cancelled)
    assert asked == 12
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_progress_ends_at_the_whole(form: str, tmp_path: Path, place: Path) -> None:
    """In bytes of the archive, never going back."""
    archive = pack(tmp_path / "p", {str(n): os.urandom(1000) for n in range(200)}, form)
    seen: list[tuple[int, int]] = []
    unpack(
        archive,
        place / "target",
        strip_top_level=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    size = archive.stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


@pytest.mark.parametrize("existing", ["file", "folder", "link"])
def test_an_existing_target_is_left_alone(existing: str, tmp_path: Path, place: Path) -> None:
    """Whatever it is, also a link to nowhere."""
    target = place / "target"
    if existing == "link":
        target.symlink_to("nowhere")
    else:
        (target.touch if existing == "file" else target.mkdir)()
    with pytest.raises(FileExistsError):
        unpack(pack(tmp_path / "p", {"a": b"1"}), target, strip_top_level=False)
    assert list(place.iterdir()) == [target]


def test_an_empty_zip_is_an_empty_folder(tmp_path: Path, place: Path) -> None:
    """As in stock."""
    assert unpack(pack(tmp_path / "p", {}), place / "target", strip_top_level=True) == Unpacked(0, 0)
    assert list((place / "target").iterdir()) == []


def test_a_real_tar_of_gnu_tar_is_unpacked(tmp_path: Path, place: Path) -> None:
    """Long names, sparse files and hard links as the usual tool writes them."""
    source = tmp_path / "source"
    (source / ("long" * 40)).mkdir(parents=True)
    (source / ("long" * 40) / ("name" * 50)).write_text("1")
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"middle")
    os.link(source / "sparse", source / "hard")
    archive = tmp_path / "p.tar.gz"
    subprocess.run(["tar", "--sparse", "-czf", archive, "-C", source, "."], check=True)
    unpack(archive, place / "target", strip_top_level=False)
    assert tree(place / "target") == tree(source)
