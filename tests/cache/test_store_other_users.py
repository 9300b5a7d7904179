"""A daemon that is root, and users who put things in its way. Root only."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shelf import below, du, key, kill, let_pass, never, put

from ray_envd.cache import recovery
from ray_envd.cache import store as store_module
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.store import Store


@pytest.fixture
def passable(tmp_path: Path) -> Path:
    let_pass(tmp_path)
    tmp_path.chmod(0o711)
    return tmp_path


@pytest.fixture
def precious(passable: Path) -> Path:
    """A folder of root's that a user would like to see written or deleted."""
    folder = passable / "precious"
    folder.mkdir(mode=0o755)
    (folder / "file").write_text("x" * 100_000)
    (folder / "inner").mkdir()
    return folder


def test_a_users_objects_are_his_and_nobody_elses(store: Store, nobody: Owner, passable: Path) -> None:
    """He owns all of his folders and can read them; another user can not."""
    entry = put(store, "a", owner=nobody)
    dirs = store.user_dir(nobody)
    for path in (dirs.root, *dirs.root.rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (nobody.uid, nobody.gid)
    assert stat.S_IMODE(dirs.root.stat().st_mode) == 0o700
    with acting_as(nobody):
        assert (entry.path / "content").exists()
        with pytest.raises(PermissionError):
            list(store.layout.markers.iterdir())
        with pytest.raises(PermissionError):
            (store.layout.users / "x").mkdir()
    with acting_as(Owner(65533, 65533)), pytest.raises(PermissionError):
        list(entry.path.iterdir())
    assert store.owners() == [(nobody.uid, nobody.gid)]


def test_all_work_on_a_users_files_is_done_as_that_user(
    store: Store, root: Path, nobody: Owner, passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel then checks every path as it would for him, races included."""
    seen: dict[str, set[int]] = {}
    for module in (store_module, recovery):
        for name in ("_require_folder", "measure", "to_trash", "remove_tree", "clear"):
            original = getattr(module, name, None)
            if original is not None:
                monkeypatch.setattr(module, name, _spy(name, original, seen))
    store.abandon(store.begin(key("a", owner=nobody), nobody))
    store.evict(put(store, "b", owner=nobody).key, never)
    store.begin(key("c", owner=nobody), nobody)
    kill(store)
    again = Store.open(root)
    again.sweep()
    again.close()
    names = {"_require_folder", "measure", "to_trash", "remove_tree", "clear"}
    assert seen == {name: {nobody.uid} for name in names}


def _spy(name: str, original: Callable[..., Any], seen: dict[str, set[int]]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        status = Path("/proc/thread-self/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()
        seen.setdefault(name, set()).add(int(uids[4]))  # real, effective, saved, file system
        return original(*args)

    return call


def test_the_same_digest_of_two_users_is_two_objects(store: Store, nobody: Owner, passable: Path) -> None:
    """Nothing of one user's reaches the other, and each goes alone."""
    mine, his = put(store, "a"), put(store, "a", owner=nobody)
    assert mine.path != his.path
    store.evict(his.key, never)
    assert store.get(mine.key) == mine


@pytest.mark.parametrize("planted", ["objects-v1", "objects-v1/pip", "trash", "staging", "object"])
def test_a_planted_link_makes_nobody_write_or_delete_outside(
    store: Store, root: Path, nobody: Owner, precious: Path, planted: str
) -> None:
    """A user puts a link to root's folder in place of one of his: build, eviction and recovery stay out."""
    entry = put(store, "a", owner=nobody)
    build = store.begin(key("b", owner=nobody), nobody)
    place = entry.path if planted == "object" else store.user_dir(nobody).root / planted
    before = below(precious)
    with acting_as(nobody):
        place.rename(place.with_name("moved-away"))
        place.symlink_to(precious)
    for attempt in (
        lambda: store.abandon(build),
        lambda: put(store, "c", owner=nobody),
        lambda: store.evict(entry.key, never),
    ):
        with contextlib.suppress(OSError):  # he has broken his own folders: an error is as good an answer
            attempt()
    assert below(precious) == before
    kill(store)
    again = Store.open(root)
    again.sweep()
    assert below(precious) == before
    assert (precious / "file").read_text() == "x" * 100_000
    assert (precious.stat().st_uid, stat.S_IMODE(precious.stat().st_mode)) == (0, 0o755)
    put(again, "of root")
    again.close()


def test_planted_links_in_an_object_lead_nowhere(store: Store, nobody: Owner, precious: Path) -> None:
    """Measuring and deleting an object see the links and not what they point to."""
    build = store.begin(key("a", owner=nobody), nobody)
    with acting_as(nobody):
        (build.path / "link").symlink_to(precious)
        (build.path / "file").symlink_to(precious / "file")
    entry = store.commit(build, summary="", build_seconds=0, details={})
    assert entry.size.apparent == du(build.path)
    store.unhold(entry.key)
    store.evict(entry.key, never)
    assert below(precious) == ["file", "inner"]


def test_a_pipe_as_the_single_file_of_an_object_does_not_hang_the_daemon(
    store: Store, nobody: Owner, passable: Path
) -> None:
    """Committing never waits for somebody to open the other end."""
    build = store.begin(key("a", owner=nobody), nobody)
    with acting_as(nobody):
        os.mkfifo(build.path / "content")
    store.commit(build, summary="", build_seconds=0, details={})


def test_a_users_folder_half_made_by_a_killed_daemon_is_finished(
    store: Store, nobody: Owner, passable: Path
) -> None:
    """Between making the folder and giving it away the daemon may die."""
    store.layout.user(nobody.uid).root.mkdir(mode=0o700)
    assert store.owners() == []
    store.user_dir(nobody)
    assert store.owners() == [(nobody.uid, nobody.gid)]


def test_one_users_unreadable_folders_do_not_keep_the_daemon_from_starting(
    store: Store, root: Path, nobody: Owner, passable: Path
) -> None:
    """His objects are left alone, and are back when he lets the daemon in again."""
    his, mine = put(store, "a", owner=nobody), put(store, "a")
    objects = store.user_dir(nobody).objects
    kill(store)
    objects.chmod(0)
    again = Store.open(root)
    assert [entry.key for entry in again.entries()] == [mine.key]
    kill(again)
    objects.chmod(0o700)
    third = Store.open(root)
    assert {entry.key for entry in third.entries()} == {mine.key, his.key}
    third.close()
