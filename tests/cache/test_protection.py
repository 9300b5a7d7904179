"""Finished trees are read-only for their users, and for nobody who has to remove them."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from helpers import make_wheel
from uv import find_uv_bin

from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.protection import protect
from ray_envd.cache.removal import clear

USER = Owner(41000, 41000)


@pytest.fixture
def place(short_tmp: Path, other_users: None) -> Path:
    """A user's folder, with a tree of his."""
    assert other_users is None
    short_tmp.chmod(0o755)
    folder = short_tmp / "place"
    folder.mkdir()
    os.chown(folder, USER.uid, USER.gid)
    with acting_as(USER):
        (folder / "object/venv/empty").mkdir(parents=True)
        (folder / "object/venv/tool").write_text("tool")
        (folder / "object/venv/tool").chmod(0o755)
        (folder / "object/venv/module.py").write_text("x = 1")
        (folder / "object/venv/link").symlink_to("module.py")
        (folder / "object/venv/outside").symlink_to("../../other")
        (folder / "other").write_text("not in the tree")
    return folder


def test_nothing_can_be_written(place: Path) -> None:
    """Files cannot be changed, deleted, replaced or added; modes for reading and running stay."""
    with acting_as(USER):
        assert protect(place / "object") == 4
        assert protect(place / "object") == 0
        venv = place / "object/venv"
        attempts = [
            lambda: (venv / "module.py").write_text("x = 2"),
            (venv / "module.py").unlink,
            (venv / "empty/new").touch,
            lambda: (venv / "tool").replace(venv / "module.py"),
            (venv / "empty").rmdir,
        ]
        for attempt in attempts:
            with pytest.raises(PermissionError):
                attempt()
        assert stat.S_IMODE((venv / "tool").stat().st_mode) == 0o555
        assert (venv / "module.py").read_text() == "x = 1"


def test_links_are_not_followed(place: Path) -> None:
    """What a link names outside of the tree keeps its permissions."""
    with acting_as(USER):
        protect(place / "object")
        (place / "other").write_text("still writable")


def test_it_goes_into_the_trash(place: Path) -> None:
    """By a rename, as everything that is removed, and from there for good."""
    with acting_as(USER):
        protect(place / "object")
        inode = (place / "object").stat().st_ino
        (place / "trash").mkdir()
        (place / "object").rename(place / "trash/doomed")
        assert (place / "trash/doomed").stat().st_ino == inode
        assert clear(place / "trash/doomed", place / "trash") > 0
        assert list((place / "trash").iterdir()) == []


def test_uv_does_not_mind(place: Path) -> None:
    """Files whose links in uv's cache are read-only too: linked again, pruned, cleaned."""
    make_wheel(place / "wheels", "tiny", "1.0")
    for path in (place / "wheels", *(place / "wheels").iterdir()):
        os.chown(path, USER.uid, USER.gid)

    def uv(*words: str) -> None:
        subprocess.run(
            [find_uv_bin(), *words, "--offline", "--cache-dir", str(place / "cache")],
            user=USER.uid,
            group=USER.gid,
            extra_groups=[],
            check=True,
            capture_output=True,
            cwd="/",
            env={"HOME": str(place), "PATH": os.environ["PATH"]},
        )

    def install(name: str) -> Path:
        target = place / name
        uv("venv", "--python", "/usr/bin/python3", str(target))
        links = ["--no-index", "--find-links", str(place / "wheels")]
        uv("pip", "install", *links, "--link-mode", "hardlink", "--python", f"{target}/bin/python", "tiny")
        return next(target.glob("lib/*/site-packages/tiny.py"))

    first = install("one")
    with acting_as(USER):
        protect(place / "one")
    second = install("two")
    assert first.stat().st_ino == second.stat().st_ino
    assert stat.S_IMODE(second.stat().st_mode) & 0o222 == 0
    uv("cache", "prune")
    uv("cache", "clean", "tiny")
    uv("cache", "clean")
    assert not list((place / "cache").rglob("tiny.py"))
    third = install("three")
    assert third.stat().st_ino != first.stat().st_ino
