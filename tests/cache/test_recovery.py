import json
import logging
import os
import sqlite3
import time
from pathlib import Path

import diskcache
import pytest
from shelf import ME, below, key, kill, never, put

from ray_envd.cache.errors import StoreError
from ray_envd.cache.keys import digest_of
from ray_envd.cache.records import Facts
from ray_envd.cache.sizes import Size
from ray_envd.cache.store import Store


def _marker(store: Store, name: object) -> Path:
    found = key(name)
    return store.layout.markers / str(found.owner) / found.kind / f"{found.digest}.json"


def test_a_build_under_way_is_gone_after_a_restart(store: Store, root: Path) -> None:
    """What has no marker is moved out of the way at once and deleted by the sweep."""
    build = store.begin(key("a"), ME)
    (build.path / "half").write_bytes(b"x" * 10_000)
    kill(store)
    again = Store.open(root)
    assert again.get(key("a")) is None
    assert not build.path.exists()
    assert again.sweep() >= 10_000
    assert below(again.user_dir(ME).trash) == []
    put(again, "a")
    again.close()


def test_a_marker_without_a_folder_is_dropped(store: Store, root: Path) -> None:
    """The object is not offered, and can be built anew."""
    entry = put(store, "a")
    marker = _marker(store, "a")
    kill(store)
    (entry.path / "content").unlink()
    entry.path.rmdir()
    again = Store.open(root)
    assert again.get(key("a")) is None
    assert not marker.exists()
    put(again, "a")
    again.close()


def test_a_folder_replaced_by_a_link_is_no_object(store: Store, root: Path, tmp_path: Path) -> None:
    """The link goes, what it points to stays."""
    entry = put(store, "a")
    kill(store)
    elsewhere = tmp_path / "elsewhere"
    entry.path.rename(elsewhere)
    entry.path.symlink_to(elsewhere)
    again = Store.open(root)
    again.sweep()
    assert again.get(key("a")) is None
    assert not entry.path.is_symlink()
    assert below(elsewhere) == ["content"]
    again.close()


def test_a_row_without_a_marker_is_dropped(store: Store, root: Path) -> None:
    """The catalog alone makes no object: the marker is removed first when one leaves."""
    entry = put(store, "a")
    store.link(digest_of("r"), key("a"), None)
    kill(store)
    _marker(store, "a").unlink()
    again = Store.open(root)
    again.sweep()
    assert again.entries() == []
    assert again.linked(digest_of("r")) is None
    assert not entry.path.exists()
    kill(again)
    third = Store.open(root)
    assert third._catalog.rows == {}
    third.close()


@pytest.mark.parametrize(
    "damage", ["removed", "empty", "noise", "flipped", "truncated", "other", "wrong rows"]
)
def test_without_its_catalog_the_store_is_rebuilt_from_markers(
    store: Store, root: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Objects and pins are all there, the database is kept aside, a warning says so."""
    before = {put(store, number).key for number in range(10)}
    store.pin(key(3))
    store.close()
    _damage(store.layout.catalog, damage)
    with caplog.at_level(logging.WARNING):
        again = Store.open(root)
    assert {entry.key for entry in again.entries()} == before
    assert [entry.key for entry in again.entries() if entry.pinned] == [key(3)]
    if damage not in {"removed", "wrong rows", "empty"}:
        assert "cannot be read" in caplog.text
        assert store.layout.damaged_catalog.is_dir()
    put(again, "new")
    again.close()
    caplog.clear()
    third = Store.open(root)
    assert len(third.entries()) == 11
    assert caplog.text == ""
    third.close()


def _damage(catalog: Path, how: str) -> None:
    database = catalog / "cache.db"
    content = bytearray(database.read_bytes())
    for extra in catalog.glob("cache.db-*"):
        extra.unlink()
    if how == "removed":
        database.unlink()
    elif how == "empty":
        database.write_bytes(b"")
    elif how == "noise":
        database.write_bytes(os.urandom(len(content)))
    elif how == "truncated":
        database.write_bytes(content[: len(content) // 2])
    elif how == "other":
        database.unlink()
        with sqlite3.connect(database) as other:
            other.execute("CREATE TABLE Cache (key TEXT, other TEXT)")
    elif how == "flipped":
        for offset in range(4096, len(content), 37):
            content[offset] ^= 0xFF
        database.write_bytes(content)
    else:
        with diskcache.Cache(str(catalog), disk=diskcache.JSONDisk) as cache:
            for number, name in enumerate(list(cache.iterkeys())):
                cache[name] = [None, 17, "text", {}, {"facts": 3, "marker": 4}, [1, 2]][number % 6]


def test_on_a_full_disk_the_store_opens_without_a_catalog(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon must start to make room; the catalog is not taken for damaged."""
    put(store, "a")
    put(store, "b")
    store.close()
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    def fail(_folder: Path) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr("ray_envd.cache.catalog._read", fail)
        again = Store.open(root)
    assert not again.layout.damaged_catalog.exists()
    assert {entry.key for entry in again.entries()} == {key("a"), key("b")}
    again.evict(key("a"), never)
    again.flush()
    again.close()
    third = Store.open(root)
    assert [entry.key for entry in third.entries()] == [key("b")]
    third.close()


def test_a_changed_marker_is_believed_over_the_catalog(store: Store, root: Path) -> None:
    """A daemon killed between a marker and its row left the truth in the marker."""
    put(store, "a")
    store._markers.write(key("a"), Facts("changed", Size(7), 1.0, 2.0, {"new": 1}, pinned=True))
    kill(store)
    again = Store.open(root)
    entry = again.get(key("a"))
    assert entry is not None
    assert (entry.summary, entry.size.private) == ("changed", 7)
    assert (entry.pinned, entry.details) == (True, {"new": 1})
    again.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 99}', b"\xff\xfe", b"null"])
def test_an_object_with_a_damaged_marker_is_quarantined(store: Store, root: Path, content: bytes) -> None:
    """What its marker said is not known: it is handed out no more, and stays for who stands on it."""
    entry = put(store, "a")
    put(store, "b")
    kill(store)
    _marker(store, "a").write_bytes(content)
    again = Store.open(root)
    again.sweep()
    assert [each.key for each in again.entries() if not each.damaged] == [key("b")]
    assert again.hold(key("a")) is None
    assert again.find("pip/" + key("a").digest).damaged.startswith("its marker cannot be read")
    assert entry.path.exists()
    assert not _marker(again, "a").exists()
    assert put(again, "a").path != entry.path
    again.evict_damaged(key("a"), 0, never)
    assert not entry.path.exists()
    again.close()


def test_leftovers_of_every_kind_are_removed(store: Store, root: Path) -> None:
    """Trash, staging, half-written markers and strange names do not survive; logs and uv's cache do."""
    put(store, "a")
    dirs = store.user_dir(ME)
    kill(store)
    (dirs.trash / "old").mkdir()
    (dirs.staging / "download").write_bytes(b"x" * 10_000)
    (dirs.objects / "pip" / "not a digest").mkdir()
    (dirs.objects / "Not A Kind" / "abcdef0123").mkdir(parents=True)
    (dirs.objects / "pip" / digest_of("file")).write_text("no folder")
    (dirs.logs / "log").write_text("x")
    (dirs.uv_cache / "wheel").write_text("x")
    half = _marker(store, "a").with_name(f".{digest_of('b')}.json.new")
    half.write_text("{")
    (store.layout.markers / "1000" / "pip" / "folder.json").mkdir(parents=True)
    again = Store.open(root)
    assert below(dirs.staging) == []
    assert [path for path in below(dirs.objects) if path.count("/") == 1] == [key("a").id]
    again.sweep()
    assert below(dirs.trash) == []
    assert not half.exists()
    assert [entry.key for entry in again.entries()] == [key("a")]
    assert (dirs.logs / "log").exists()
    assert (dirs.uv_cache / "wheel").exists()
    again.close()


def test_buckets_of_other_layouts_are_removed_and_others_things_stay(store: Store, root: Path) -> None:
    """Only what was a bucket of this store goes."""
    dirs = store.user_dir(ME)
    kill(store)
    doomed = [root / "catalog-v0", root / "markers-v2", root / "sessions-v10", dirs.root / "objects-v0"]
    kept = [root / "lost+found", root / "notes-v1", dirs.root / "local", dirs.root / "objects"]
    for folder in (*doomed, *kept):
        (folder / "inner").mkdir(parents=True)
    again = Store.open(root)
    again.sweep()
    assert [folder for folder in doomed if folder.exists()] == []
    assert [folder for folder in kept if not folder.exists()] == []
    again.close()


def test_a_sweep_leaves_alone_what_was_trashed_after_the_start(store: Store, root: Path) -> None:
    """It may run beside builds and evictions."""
    (store.user_dir(ME).trash / "old").mkdir()
    kill(store)
    again = Store.open(root)
    (again.user_dir(ME).trash / "new").mkdir()
    build = again.begin(key("a"), ME)
    staged = again.user_dir(ME).staging / "download"
    staged.write_text("x")
    again.sweep()
    assert below(again.user_dir(ME).trash) == ["new"]
    assert build.path.is_dir()
    assert staged.exists()
    again.close()


def test_a_clock_that_was_ahead_does_not_make_objects_immortal(store: Store, root: Path) -> None:
    """A use in the future counts as one now."""
    put(store, "a")
    store._objects._stored[key("a")].touch(time.time() + 1e6)
    store._objects._touched.add(key("a"))
    store.close()
    again = Store.open(root)
    entry = again.get(key("a"))
    assert entry is not None
    assert entry.last_used <= time.time()
    again.close()


def test_a_store_of_somebody_else_is_refused(root: Path) -> None:
    """The daemon does not make itself at home in another user's folder."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make another user's folder")
    root.mkdir()
    os.chown(root, 65534, 65534)
    with pytest.raises(StoreError, match="belongs to uid 65534"):
        Store.open(root)


def test_markers_say_everything_in_plain_json(store: Store) -> None:
    """The format is for other programs and later versions as well."""
    entry = put(store, "a")
    value = json.loads(_marker(store, "a").read_text())
    assert value == {
        "version": 1,
        "summary": "a",
        "bytes": entry.size.apparent,
        "created": entry.created,
        "build_seconds": 1.5,
        "details": {"name": "a"},
        "pinned": False,
        "units": [],
        "fetched_bytes": 0,
        "generation": 0,
        "damaged": "",
        "stamps": {},
        "sealed": False,
        "epoch": 1,
    }


def test_a_store_with_many_objects_opens_without_looking_into_them(store: Store, root: Path) -> None:
    """Neither contents nor, with a catalog, markers are read at start."""
    for number in range(20):
        put(store, number)
    store.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_envd.cache.markers.Markers.read", None)
        patch.setattr("ray_envd.cache.sizes._states", None)
        again = Store.open(root)
    assert len(again.entries()) == 20
    again.evict(key(1), never)
    again.close()
