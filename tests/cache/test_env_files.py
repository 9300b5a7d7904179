"""The copy of a session's env files: used where it is of the files as they are, never believed over them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from shelf import age, key

from ray_envd.cache.env_files import Bound, EnvFiles
from ray_envd.cache.keys import digest_of

ENVS = {digest_of(n): Bound((key(n), key("shared")), float(n)) for n in range(5)}


def summary(digest: str) -> dict[str, Any]:
    return {"context": digest}


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session's folder with five envs, written a while ago and copied."""
    (tmp_path / "envs").mkdir()
    files = EnvFiles(tmp_path)
    for digest, bound in ENVS.items():
        files.write(digest, bound, summary(digest))
    age(tmp_path / "envs")
    assert files.copy(ENVS, last=True)
    return tmp_path


def read(session: Path) -> tuple[dict[str, Bound], dict[str, Mapping[str, Any]]]:
    """What the next daemon finds."""
    files = EnvFiles(session)
    return files.read(), files.summaries()


def spoil(path: Path) -> None:
    """Puts nonsense into a file, so that nobody can tell by its inode, size or time."""
    was = path.stat()
    with path.open("r+b") as file:
        file.write(b"x" * was.st_size)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


EXPECTED = ENVS, {digest: summary(digest) for digest in ENVS}


def test_a_start_opens_no_file_that_the_copy_has(session: Path) -> None:
    """Neither in a folder where nothing has happened, nor in one where something has."""
    for path in (session / "envs").iterdir():
        spoil(path)
    assert read(session) == EXPECTED
    (session / "envs/.half.json.new").touch()
    assert read(session) == EXPECTED


def test_an_untouched_folder_is_not_even_listed(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand envs each look is a call."""

    def fail(_path: Path) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(os, "scandir", fail)
    assert read(session) == EXPECTED


def test_files_are_believed_over_the_copy(session: Path) -> None:
    """One that was replaced, one that is new and one that is gone."""
    files = EnvFiles(session)
    changed, gone, *_ = ENVS
    bound = Bound((key("other"),), 7.0)
    for digest in (changed, digest_of("new")):
        files.write(digest, bound, {"is": "new"})
    files.remove(gone)
    expected = {**ENVS, changed: bound, digest_of("new"): bound}
    del expected[gone]
    envs, summaries = read(session)
    assert envs == expected
    assert summaries.keys() == expected.keys()
    assert summaries[changed] == {"is": "new"}


def test_what_is_young_is_not_copied(session: Path) -> None:
    """It may be replaced within the same tick of the file system's clock, and nobody could tell."""
    files = EnvFiles(session)
    digest = next(iter(ENVS))
    first, second = Bound((key("x"),), 1.0), Bound((key("y"),), 1.0)
    files.write(digest, first, {})
    state = (session / "envs" / f"{digest}.json").stat()
    assert files.copy({**ENVS, digest: first}, last=True)
    path = session / "envs" / f"{digest}.json"
    content = path.read_text().replace(key("x").digest, key("y").digest)
    path.write_text(content)  # the same inode and size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read(session)[0] == {**ENVS, digest: second}


@pytest.mark.parametrize("damage", ["gone", "empty", "nonsense", "list", "cut", "first line", "second line"])
def test_a_damaged_copy_costs_time_only(session: Path, damage: str) -> None:
    """The files say everything."""
    path = session / "envs.copy"
    first, second = path.read_bytes().split(b"\n")
    content = {
        "empty": b"",
        "nonsense": b"\xff\x00",
        "list": b"[1]\n[2]",
        "cut": first + b"\n" + second[:50],
        "first line": first.replace(b'"objects"', b'"0bjects"') + b"\n" + second,
        "second line": first + b"\n{}",
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    assert read(session) == EXPECTED


def test_a_damaged_file_is_dropped(session: Path) -> None:
    """It is removed, and the others are there."""
    digest = next(iter(ENVS))
    path = session / "envs" / f"{digest}.json"
    path.unlink()
    path.write_text('{"objects": [')
    assert read(session)[0].keys() == ENVS.keys() - {digest}
    assert not path.exists()


def test_the_copy_is_made_when_much_has_changed(tmp_path: Path) -> None:
    """Not for each of a few, and in the end for any."""
    (tmp_path / "envs").mkdir()
    files = EnvFiles(tmp_path)
    envs = {digest_of(n): Bound((), float(n)) for n in range(150)}
    made = []
    for digest, bound in envs.items():
        files.write(digest, bound, {})
        age(tmp_path / "envs")
        made.append(files.copy(envs))
    assert made.count(True) == 1
    assert files.copy(envs, last=True)
    assert not files.copy(envs, last=True)
    again = EnvFiles(tmp_path)
    assert again.read() == envs
    assert not again.copy(envs, last=True)
