import os
from pathlib import Path

import pytest
from shelf import below, du, let_pass

from ray_envd.cache import removal
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.removal import clear, remove_tree, to_trash
from ray_envd.cache.sizes import measure, weigh

_BLOCK = 4096  # smaller files take one block on any usual file system


def test_a_tree_goes_with_all_in_it_and_says_what_it_freed(tmp_path: Path) -> None:
    """The bytes reported are those that du counted before."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_bytes(b"x" * 50_000)
    (tree / "a" / "link").symlink_to("/etc/passwd")
    before = du(tree)
    assert measure(tree).size.private == before
    assert remove_tree(tree) == before
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path: Path) -> None:
    """Neither a link in the tree nor one in the tree's own place leads outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "folder").symlink_to(outside)
    remove_tree(tree)
    (tmp_path / "place").symlink_to(outside)
    remove_tree(tmp_path / "place")
    assert (outside / "precious").read_text() == "x"
    assert below(tmp_path) == ["outside", "outside/precious"]


def test_a_folder_that_becomes_a_link_under_the_walk_is_not_followed(tmp_path: Path) -> None:
    """Between looking at a name and opening it, somebody may put a link there."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    parent = os.open(tmp_path, os.O_PATH)
    with pytest.raises(NotADirectoryError):
        removal._open_folder(parent, "link")
    os.close(parent)


def test_files_that_are_linked_elsewhere_are_not_counted(tmp_path: Path) -> None:
    """A file shared with uv's cache is not freed with the environment; one linked twice inside is, once."""
    cache, tree = tmp_path / "cache", tmp_path / "tree"
    cache.mkdir()
    tree.mkdir()
    (cache / "shared").write_bytes(b"x" * 100_000)
    os.link(cache / "shared", tree / "shared")
    empty = measure(tree).size.private
    (tree / "own").write_bytes(b"x" * 10_000)
    os.link(tree / "own", tree / "again")
    own = (tree / "own").stat().st_blocks * 512
    assert measure(tree).size.private == empty + own
    assert remove_tree(tree) == empty + own
    assert (cache / "shared").stat().st_size == 100_000


def test_a_cache_counts_each_file_once_whoever_links_to_it(tmp_path: Path) -> None:
    """The cache of uv is measured whole: its shared files are counted here and nowhere else."""
    cache, tree = tmp_path / "cache", tmp_path / "tree"
    cache.mkdir()
    tree.mkdir()
    (cache / "one").write_bytes(b"x" * 100_000)
    os.link(cache / "one", cache / "two")
    os.link(cache / "one", tree / "three")
    assert weigh(cache).total == (cache.stat().st_blocks + (cache / "one").stat().st_blocks) * 512
    assert weigh(tmp_path / "nothing").total == 0


def test_folders_without_write_permission_go_too(tmp_path: Path, as_nobody: None) -> None:
    """What a builder made read-only is still the store's to remove."""
    tree = tmp_path / "tree"
    inner = tree / "locked" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    for folder in (inner, tree / "locked", tree):
        folder.chmod(0o500 if folder is not inner else 0)
    remove_tree(tree)
    assert not tree.exists()


def test_any_depth_of_nesting_goes(tmp_path: Path) -> None:
    """A tree deeper than Python's stack and the limit of open files is removed."""
    tree = tmp_path / "tree"
    tree.mkdir()
    descriptor = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    remove_tree(tree)
    assert not tree.exists()


def test_what_cannot_be_deleted_does_not_keep_the_rest(tmp_path: Path, nobody: Owner) -> None:
    """An error is raised at the end, when everything else is gone."""
    tree = tmp_path / "tree"
    (tree / "of-root" / "inner").mkdir(parents=True)
    for name in ("first", "zlast"):
        (tree / name).write_text("x")
    for path in (tree, tree / "first", tree / "zlast", tmp_path):
        os.chown(path, nobody.uid, nobody.gid)
    let_pass(tmp_path)
    with acting_as(nobody), pytest.raises(PermissionError):
        remove_tree(tree)
    assert below(tree) == ["of-root", "of-root/inner"]


def test_the_trash_is_made_when_it_is_needed_and_names_do_not_clash(tmp_path: Path) -> None:
    """Two things of one name lie side by side in the trash."""
    places = []
    for _ in range(2):
        (tmp_path / "thing").mkdir()
        places.append(to_trash(tmp_path / "thing", tmp_path / "trash"))
    assert len(set(places)) == 2
    assert all(place is not None and place.is_dir() for place in places)


def test_without_a_usable_trash_it_is_deleted_in_place(tmp_path: Path) -> None:
    """A user who puts a file where his trash was does not keep an object alive."""
    (tmp_path / "trash").write_text("not a folder")
    (tmp_path / "thing").mkdir()
    assert to_trash(tmp_path / "thing", tmp_path / "trash") is None
    assert not (tmp_path / "thing").exists()


def test_nothing_is_removed_without_complaint(tmp_path: Path) -> None:
    """What is gone already frees nothing."""
    assert remove_tree(tmp_path / "nothing") == 0
    assert clear(tmp_path / "nothing", tmp_path / "trash") == 0


def test_a_single_file_counts_its_blocks(tmp_path: Path) -> None:
    """Trash holds files as well."""
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    path.chmod(0o400)
    assert remove_tree(path) == _BLOCK
