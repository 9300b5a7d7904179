"""What trees weigh, by who else has their files."""

import os
from pathlib import Path

from shelf import du

from ray_envd.cache.sizes import Weight, weigh


def test_what_is_linked_elsewhere_is_told_apart(tmp_path: Path) -> None:
    """Folders and files of its own, and files with several links, each once."""
    tree, other = tmp_path / "tree", tmp_path / "other"
    (tree / "below").mkdir(parents=True)
    (tree / "below/own").write_bytes(b"x" * 10_000)
    (tree / "shared").write_bytes(b"x" * 50_000)
    (tree / "link").symlink_to(tmp_path)
    alone = weigh(tree)
    assert alone == Weight(own=du(tree))
    os.link(tree / "shared", other)
    os.link(tree / "shared", tree / "below/again")
    both = weigh(tree)
    assert both.linked == weigh(other).linked == (tree / "shared").stat().st_blocks * 512
    assert both.total == alone.total  # a link takes nothing


def test_a_file_and_nothing_have_a_weight_too(tmp_path: Path) -> None:
    """Downloads are one file, and may have gone when they are looked at."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    assert weigh(path) == Weight(own=path.stat().st_blocks * 512)
    assert weigh(tmp_path / "none") == Weight()
