"""Inventories of trees, and what RECORDs say of them."""

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_envd.cache import inventory
from ray_envd.cache.inventory import Found, parse, take


def record_hash(content: bytes) -> str:
    """A digest as RECORD writes it."""
    value = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={value}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small environment: two files of a wheel, one of them in ``bin``, and one that no RECORD names."""
    root = tmp_path / "object"
    site, binaries = root / "lib/site-packages", root / "bin"
    info = site / "some_thing-1.0.dist-info"
    info.mkdir(parents=True)
    binaries.mkdir()
    (site / "thing.py").write_bytes(b"x = 1\n")
    (site / "wrong.py").write_bytes(b"x = 2\n")
    (binaries / "thing").write_bytes(b"#!python\n")
    (binaries / "python").symlink_to("/usr/bin/python3")
    (root / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (info / "RECORD").write_text(
        f"thing.py,{record_hash(b'x = 1' + bytes([10]))},6\n"
        f"wrong.py,{record_hash(b'x = 1' + bytes([10]))},6\n"
        f"../../bin/thing,{record_hash(b'#!other' + bytes([10]))},9\n"
        "some_thing-1.0.dist-info/RECORD,,\n"
    )
    return root


def by_path(found: list[Found]) -> dict[str, Found]:
    """The same, to look into."""
    return {each.path: each for each in found}


def test_it_names_everything_and_its_package(tree: Path) -> None:
    """Files with digests, links with targets, folders; of a wheel's files, which are unlike its RECORD."""
    found = by_path(take(str(tree), digests=True))
    assert sorted(found) == [
        "bin",
        "bin/python",
        "bin/thing",
        "lib",
        "lib/site-packages",
        "lib/site-packages/some_thing-1.0.dist-info",
        "lib/site-packages/some_thing-1.0.dist-info/RECORD",
        "lib/site-packages/thing.py",
        "lib/site-packages/wrong.py",
        "pyvenv.cfg",
    ]
    module = found["lib/site-packages/thing.py"]
    assert module.content == hashlib.sha256(b"x = 1\n").hexdigest()
    assert (module.type, module.package, module.is_unlike) == ("f", "some_thing", False)
    wrong = found["lib/site-packages/wrong.py"]
    assert (wrong.package, wrong.is_unlike) == ("some_thing", True)
    # A script is the installer's work, and ours.
    assert (found["bin/thing"].package, found["bin/thing"].is_unlike) == ("some_thing", False)
    assert (found["bin/python"].type, found["bin/python"].content) == ("l", "/usr/bin/python3")
    assert (found["bin"].type, found["pyvenv.cfg"].package) == ("d", "")


def test_a_quick_one_reads_no_file(tree: Path) -> None:
    """Without digests there is only what stat says."""
    (tree / "pyvenv.cfg").write_text("longer than before it was\n")
    module = by_path(take(str(tree), digests=False))["pyvenv.cfg"]
    state = (tree / "pyvenv.cfg").stat()
    assert (module.content, module.size, module.mtime_ns) == ("", state.st_size, state.st_mtime_ns)


def test_what_a_user_may_have_put_there(tree: Path) -> None:
    """A pipe is not waited for, a link to a folder not followed, a RECORD of nonsense says nothing."""
    os.mkfifo(tree / "pipe")
    (tree / "elsewhere").symlink_to("/etc")
    info = tree / "lib/site-packages/some_thing-1.0.dist-info"
    (info / "RECORD").write_bytes(b'\xff\xfe"\0,\n')
    (tree / os.fsdecode(b"\xff-name")).write_text("x")
    found = by_path(take(str(tree), digests=True))
    assert found["pipe"].type == "?"
    assert found["elsewhere"].content == "/etc"
    assert not any(path.startswith("elsewhere/") for path in found)
    assert found["lib/site-packages/thing.py"].package == ""
    assert found["\udcff-name"].type == "f"


def test_the_child_prints_what_a_call_returns(tree: Path) -> None:
    """The line that it prints is read back to the same inventory, names that are no UTF-8 included."""
    (tree / os.fsdecode(b"\xff-name")).write_text("x")
    argv = [sys.executable, "-I", "-m", inventory.__name__, str(tree), "--digests"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    lines = [line.removeprefix(inventory.MARK) for line in printed.splitlines()]
    assert parse(lines) == take(str(tree), digests=True)
    for nonsense in ("[1]", "7", "{", '[["path", "f", 0, 0, 0, "", 1, "", false, "one too many"]]'):
        with pytest.raises(ValueError, match=r"."):
            parse([nonsense])
