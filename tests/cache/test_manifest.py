"""Manifests: telling what became of an object."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_envd.cache.inventory import take
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.manifest import Change, Difference, Manifest, Manifests

KEY = ObjectKey(os.getuid(), "python", digest_of("an object"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A module that is compiled, a program, a link, and a file that uv's cache has as well."""
    root = tmp_path / "object"
    (root / "pkg/__pycache__").mkdir(parents=True)
    (root / "pkg/mod.py").write_text("x = 1\n")
    (root / "pkg/__pycache__/mod.cpython-311.pyc").write_bytes(b"compiled")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    (root / "link").symlink_to("program")
    (root / "shared").write_text("of the cache\n")
    os.link(root / "shared", tmp_path / "in uv's cache")
    return root


def edit(path: Path, content: str) -> None:
    """Writes in place, and leaves the time of the last change as it was."""
    state = path.stat()
    path.write_text(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replace(root: Path) -> None:
    (root / "pkg/mod.py").unlink()
    (root / "pkg/mod.py").symlink_to("/dev/null")


#: What is done, what a quick look says, and what reading everything says.
DAMAGE: dict[str, tuple[Callable[[Path], object], dict[str, Change], dict[str, Change]]] = {
    "nothing": (lambda _: None, {}, {}),
    "a flipped bit": (lambda root: edit(root / "pkg/mod.py", "x = 3\n"), {}, {"pkg/mod.py": Change.CHANGED}),
    "a flipped bit in compiled code": (
        lambda root: edit(root / "pkg/__pycache__/mod.cpython-311.pyc", "compileD"),
        {},
        {"pkg/__pycache__/mod.cpython-311.pyc": Change.CHANGED},
    ),
    "another size": (
        lambda root: edit(root / "pkg/mod.py", "x = 1\n\n"),
        {"pkg/mod.py": Change.CHANGED},
        {"pkg/mod.py": Change.CHANGED},
    ),
    "written anew, the same": (
        lambda root: os.utime(root / "pkg/mod.py", (1, 1)),
        {"pkg/mod.py": Change.CHANGED},
        {},
    ),
    "removed": (
        lambda root: (root / "pkg/mod.py").unlink(),
        {"pkg/mod.py": Change.MISSING},
        {"pkg/mod.py": Change.MISSING},
    ),
    "a link in its place": (replace, {"pkg/mod.py": Change.CHANGED}, {"pkg/mod.py": Change.CHANGED}),
    "no program any more": (
        lambda root: (root / "program").chmod(0o644),
        {"program": Change.CHANGED},
        {"program": Change.CHANGED},
    ),
    "read-only": (lambda root: (root / "program").chmod(0o555), {}, {}),
    "added": (
        lambda root: (root / "pkg/new.py").write_text(""),
        {"pkg/new.py": Change.ADDED},
        {"pkg/new.py": Change.ADDED},
    ),
    "a file for a folder": (
        lambda root: (shutil.rmtree(root / "pkg"), (root / "pkg").write_text("")),
        dict.fromkeys(
            ("pkg/__pycache__", "pkg/__pycache__/mod.cpython-311.pyc", "pkg/mod.py"), Change.MISSING
        )
        | {"pkg": Change.CHANGED},
        dict.fromkeys(
            ("pkg/__pycache__", "pkg/__pycache__/mod.cpython-311.pyc", "pkg/mod.py"), Change.MISSING
        )
        | {"pkg": Change.CHANGED},
    ),
    "another target": (
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("pkg")),
        {"link": Change.CHANGED},
        {"link": Change.CHANGED},
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_found(tree: Path, name: str) -> None:
    """A quick look finds whatever leaves a trace in sizes and times, reading everything finds the rest."""
    damage, quickly, thoroughly = DAMAGE[name]
    manifest = Manifest.of(1.0, take(str(tree), digests=True))
    damage(tree)
    for digests, expected in ((False, quickly), (True, thoroughly)):
        compared = manifest.compare(take(str(tree), digests=digests))
        assert {each.path: each.change for each in compared.differences} == expected
        assert not compared.strays


def test_a_change_of_a_shared_file_says_so(tree: Path) -> None:
    """Written in place it has changed for whoever has it; replaced, only here."""
    manifest = Manifest.of(1.0, take(str(tree), digests=True))
    (tree / "shared").write_text("written")
    (here,) = manifest.compare(take(str(tree), digests=False)).differences
    assert here == Difference("shared", Change.CHANGED, is_shared=True)
    (here,) = manifest.compare(take(str(tree), digests=True)).differences
    assert here.content == hashlib.sha256(b"written").hexdigest()
    (tree / "shared").unlink()
    (tree / "shared").write_text("another file")
    (here,) = manifest.compare(take(str(tree), digests=False)).differences
    assert here == Difference("shared", Change.CHANGED, is_shared=False)


def test_compiled_modules_of_workers_are_strays(tree: Path) -> None:
    """What Python adds by itself is no damage, and comes deepest first so that it can be removed in order."""
    manifest = Manifest.of(1.0, take(str(tree), digests=True))
    (tree / "pkg/__pycache__/mod.cpython-311.opt-1.pyc").write_bytes(b"")
    (tree / "pkg/__pycache__/mod.cpython-311.pyc.1234567").write_bytes(b"")
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__/top.cpython-311.pyc").write_bytes(b"")
    (tree / "__pycache__/evil.py").write_bytes(b"")
    compared = manifest.compare(take(str(tree), digests=False))
    assert [each.path for each in compared.differences] == ["__pycache__/evil.py"]
    assert compared.strays == (
        "pkg/__pycache__/mod.cpython-311.pyc.1234567",
        "pkg/__pycache__/mod.cpython-311.opt-1.pyc",
        "__pycache__/top.cpython-311.pyc",
        "__pycache__",
    )


def test_a_manifest_is_kept_for_one_object(tree: Path, tmp_path: Path) -> None:
    """It is read back as it was; not for another generation, nor for another object of the same name."""
    root = tmp_path / "manifests"
    root.mkdir()
    manifests = Manifests(root)
    manifest = Manifest.of(12.5, take(str(tree), digests=True))
    manifests.write(KEY, 0, manifest)
    assert Manifests(root).read(KEY, 0, 12.5) == manifest
    assert manifests.read(KEY, 1, 12.5) is None
    assert manifests.read(KEY, 0, 13.5) is None
    manifests.remove(KEY, 0)
    manifests.remove(KEY, 0)
    assert manifests.read(KEY, 0, 12.5) is None


@pytest.mark.parametrize("content", [b"", b"not zlib", bytes(1000)])
def test_a_damaged_manifest_is_none(tree: Path, tmp_path: Path, content: bytes) -> None:
    """What cannot be read says nothing of an object, be it cut short or overwritten."""
    manifests = Manifests(tmp_path)
    manifests.write(KEY, 0, Manifest.of(1.0, take(str(tree), digests=True)))
    (path,) = tmp_path.glob("*/*/*.json.z")
    path.write_bytes(content or path.read_bytes()[:50])
    assert manifests.read(KEY, 0, 1.0) is None


def test_the_sweep_keeps_what_is_there(tree: Path, tmp_path: Path) -> None:
    """Manifests of objects that are gone go; those of other generations are others'."""
    root = tmp_path / "manifests"
    root.mkdir()
    manifests = Manifests(root)
    for generation in (0, 1):
        manifests.write(KEY, generation, Manifest.of(1.0, take(str(tree), digests=True)))
    assert manifests.sweep([(KEY, 1)]) == 1
    assert manifests.read(KEY, 0, 1.0) is None
    assert manifests.read(KEY, 1, 1.0) is not None
