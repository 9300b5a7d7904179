"""Archives: members that no honest archive holds are refused."""

import stat
import tarfile
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from archive_makers import FORMATS, link, pack, refused, tar_of, zip_link

from ray_envd.cache.archive import unpack


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
def test_two_members_of_one_name_are_refused(
    form: str, first: str, second: str, rule: str, tmp_path: Path, place: Path
) -> None:
    """Also when only the normalised names are equal, or one would have to be file and folder."""
    path = tmp_path / "p"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive, pytest.warns() if first == second else nullcontext():
            archive.writestr(first, "1")
            archive.writestr(second, "2")
    else:
        mode = "w" if form == "tar" else f"w:{form.removeprefix('tar.')}"
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # a mode that is put together
            for name in (first, second):
                tar.addfile(tarfile.TarInfo(name))
    assert rule in refused(path, place)


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


def test_a_name_that_is_too_long_is_refused(tmp_path: Path, place: Path) -> None:
    """What the file system refuses is the archive's fault, not the disk's."""
    assert "longer" in refused(pack(tmp_path / "p", {"n" * 300: b""}, "tar"), place)
    assert "longer" in refused(pack(tmp_path / "q", {f"{'d' * 200}/" * 30 + "x": b""}, "tar"), place)
    assert "deep" in refused(pack(tmp_path / "r", {"d/" * 2500 + "x": b""}, "tar"), place)
