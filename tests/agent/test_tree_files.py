"""How a tree looks: what is told apart, and in the same words as ever."""

import hashlib
import os
import stat
from pathlib import Path

from ray_envd.agent.tree_files import Look


def test_trees_of_earlier_versions_are_known_again(tmp_path: Path) -> None:
    """Names in order, folder by folder, the last first, each with its state as Python writes a tuple."""
    for name in ("b/deep/ü.py", "b/__pycache__/m.pyc", "a", "b/z", "c/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    os.symlink("nowhere", tmp_path / "link")  # noqa: PTH211 - as a tree has it
    digest = hashlib.sha256()
    for name in ("a", "b", "c", "link", "c/x", "b/deep", "b/z", "b/deep/ü.py"):
        state = (tmp_path / name).lstat()
        times = () if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        digest.update(os.fsencode(name) + b"\0" + repr((state.st_mode, *times)).encode() + b"\n")
    look = Look.at(tmp_path, with_caches=False)
    assert look.digest == digest.hexdigest()
    assert look.caches == ("b/__pycache__",)
    assert Look.at(tmp_path, with_caches=True).digest != look.digest
