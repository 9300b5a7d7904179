"""doctor on tools and the store: each fault is made, and found with its remedy."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from findings import is_bad, settings_of

from ray_envd.agent.doctor import Level, examine, store, tools

pytestmark = pytest.mark.usefixtures("without_podman")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def program(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_uv_is_run(tmp_path: Path) -> None:
    """Its version is told; a missing or broken one is a failure."""
    good = tools.uv(program(tmp_path, "echo uv 1.2.3; echo more"))
    assert (good.level, good.found.startswith("uv 1.2.3 (")) == (Level.OK, True)
    is_bad(tools.uv(None), Level.FAIL, "no uv")
    is_bad(tools.uv(program(tmp_path, "exit 9")), Level.FAIL, "exit code 9")
    is_bad(tools.uv(str(tmp_path / "none")), Level.FAIL, "does not run")


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_switched_off_user_namespaces(tmp_path: Path, switch: str, value: str) -> None:
    """Each of the kernel's switches is known, with the command that turns it."""
    path = tmp_path / switch
    path.parent.mkdir()
    path.write_text("1" if value == "0" else "0")
    assert tools.user_namespaces(tmp_path).level is Level.OK
    path.write_text(f"{value}\n")
    finding = tools.user_namespaces(tmp_path)
    is_bad(finding, Level.WARN, switch.replace("/", "."))
    assert "sysctl -w" in finding.remedy


@pytest.mark.usefixtures("other_users")
def test_an_installation_that_other_users_cannot_run(short_tmp: Path) -> None:
    """A daemon of root in a place of root's alone would fail for everybody else: it is said before."""
    assert tools.other_users(sys.executable).level is Level.OK
    closed = short_tmp / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "python"
    program.symlink_to(sys.executable)
    is_bad(tools.other_users(str(program)), Level.WARN, "cannot run")


def test_the_stores_folder(tmp_path: Path) -> None:
    """Fine, not made yet, not a folder, writable by others."""
    folder = tmp_path / "store"
    assert "makes it" in store.folder(folder).found
    folder.mkdir(mode=0o700)
    assert store.folder(folder).level is Level.OK
    folder.chmod(0o770)
    finding = store.folder(folder)
    is_bad(finding, Level.FAIL, "others may write")
    assert finding.remedy == f"chmod go-w {folder}"
    file = tmp_path / "file"
    file.touch()
    is_bad(store.folder(file), Level.FAIL, "not a folder")
    is_bad(store.folder(file / "store"), Level.FAIL, "cannot be made")


@as_root
def test_a_store_of_another_user_is_not_written_in(tmp_path: Path) -> None:
    """Whose it is, is said; nothing is tried there, because he could put links in the way."""
    os.chown(tmp_path, 65534, 65534)
    before = tmp_path.stat().st_mtime_ns
    settings = settings_of(tmp_path)
    findings = {each.check: each for each in examine(settings, [Path(sys.executable)])}
    is_bad(findings["store"], Level.FAIL, "uid 65534", "this is uid 0")
    assert "hard links" not in findings
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize(("option", "words"), [("noexec", "noexec"), ("ro", "read-only")])
def test_mounts_that_cannot_serve(tmp_path: Path, option: str, words: str) -> None:
    """Programs could not run, or nothing be written; a store that is not made yet is judged by its parent."""
    assert store.noexec(tmp_path / "not/there").level is Level.OK
    look = (
        "import pathlib, sys; from ray_envd.agent.doctor import store;"
        "finding = store.noexec(pathlib.Path(sys.argv[1]) / 'store');"
        "print(finding.level.name, finding.found, bool(finding.remedy))"
    )
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" || exit 77; exec "$3" -c "$4" "$2"'
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*argv, option, str(tmp_path), sys.executable, look], capture_output=True, text=True, check=False
    )
    if done.returncode in {1, 77} and not done.stdout:
        pytest.skip(f"no mount can be made here: {done.stderr.strip()}")
    assert done.stdout.startswith("FAIL ")
    assert words in done.stdout
    assert done.stdout.endswith(" True\n")


def test_little_space_and_few_inodes(tmp_path: Path) -> None:
    """Below min_free nothing is built; a file system without a limit of inodes is fine."""
    assert store.space(tmp_path, 0).level in {Level.OK, Level.WARN}
    is_bad(store.space(tmp_path, 10**18), Level.FAIL, "min_free")
    is_bad(store.inodes(tmp_path, scarce=1.1), Level.WARN, "are free")
    assert store.inodes(Path("/proc")).found == "this file system has no limit"


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system than the temporary one."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def test_hard_links_are_tried(tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They work on real file systems, leaving nothing; where they do not, files are copied."""
    assert "they work" in store.hard_links(tmp_path).found
    assert "they work" in store.hard_links(other_disk).found
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(store.os, "link", refuse)
    is_bad(store.hard_links(tmp_path), Level.WARN, "Operation not supported", "copied")
    assert list(tmp_path.iterdir()) == []


def test_uvs_cache_on_another_file_system(tmp_path: Path, other_disk: Path) -> None:
    """A link to another disk, however well meant, makes every install a copy."""
    assert store.same_file_system(tmp_path, 7).level is Level.OK
    home = tmp_path / "users/7"
    (home / "objects-v1").mkdir(parents=True)
    (home / "uv-cache").mkdir()
    assert store.same_file_system(tmp_path, 7).found == "on the store's file system"
    (home / "uv-cache").rmdir()
    (home / "uv-cache").symlink_to(other_disk)
    is_bad(store.same_file_system(tmp_path, 7), Level.WARN, "another file system")


def test_the_clock(tmp_path: Path) -> None:
    """Never set, or apart from the file server's."""
    assert store.clock(tmp_path).level is Level.OK
    is_bad(store.clock(tmp_path, now=0.0), Level.FAIL, "1970-01-01")
    is_bad(store.clock(tmp_path, now=time.time() + 3600), Level.WARN, "behind")
    is_bad(store.clock(tmp_path, now=time.time() - 3600), Level.WARN, "ahead")
