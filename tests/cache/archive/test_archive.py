"""Archives: what is unpacked, and how."""

import os
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from archive_makers import FORMATS, link, pack, tar_of, tree, zip_link
from shelf import let_pass

from ray_envd.cache.archive import UnpackCancelledError, Unpacked, unpack
from ray_envd.cache.owner import Owner, acting_as


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


def test_names_that_differ_in_case_or_repeat_a_folder_are_fine(tmp_path: Path, place: Path) -> None:
    """Case matters on Linux, and a folder may be named as often as one likes."""
    unpack(
        pack(tmp_path / "p", {"a": b"1", "A": b"2", "d/": None, "d/x": b"3", "d//": None}),
        place / "target",
        strip_top_level=False,
    )
    assert tree(place / "target") == {"a": b"1", "A": b"2", "d/x": b"3"}


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


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_every_file_is_the_owners(form: str, nobody: Owner, tmp_path: Path, place: Path) -> None:
    """Many and large ones too, which threads write: they act as the user whose tree it is."""
    let_pass(tmp_path)
    tmp_path.chmod(0o711)
    os.chown(place, nobody.uid, nobody.gid)
    files: dict[str, bytes | None] = {f"{n % 7}/{n}": os.urandom(n % 50) for n in range(700)}
    files["large"] = os.urandom(20 << 20)
    archive = pack(tmp_path / "p", files, form)
    archive.chmod(0o644)
    with acting_as(nobody):
        unpack(archive, place / "target", strip_top_level=False)
    assert tree(place / "target") == files
    assert {path.stat().st_uid for path in (place / "target").rglob("*")} == {nobody.uid}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("size", [0, 1, 100, 1 << 18, (1 << 18) + 1, 9 << 20])
def test_zips_of_every_method_and_size(method: int, size: int, tmp_path: Path, place: Path) -> None:
    """Content of any length, in one piece or several, with headers as long as extra fields make them."""
    data = os.urandom(size // 2) + bytes(size - size // 2)
    with zipfile.ZipFile(tmp_path / "p", "w") as archive:
        for number in range(3):
            info = zipfile.ZipInfo(f"ü{number}")
            info.extra = b"\xff\xff\xc8\x00" + bytes(200) if number else b""
            archive.writestr(info, data, method)
    done = unpack(tmp_path / "p", place / "target", strip_top_level=False)
    assert tree(place / "target") == {f"ü{number}": data for number in range(3)}
    assert done.bytes == 3 * size
