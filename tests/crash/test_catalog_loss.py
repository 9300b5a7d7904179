"""The catalog is a copy: whatever becomes of it, the daemon makes it anew from the markers and serves."""

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from life import Life
from promises import goes_on, holds
from whole import damaged
from world import World

pytestmark = pytest.mark.slow


def _database(catalog: Path) -> Path:
    """The database alone: what a killed daemon had in the log is taken into it."""
    path = catalog / "cache.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _delete(catalog: Path) -> None:
    shutil.rmtree(catalog)


def _empty(catalog: Path) -> None:
    _database(catalog).write_bytes(b"")


def _halve(catalog: Path) -> None:
    path = _database(catalog)
    os.truncate(path, path.stat().st_size // 2)


def _begin_with_garbage(catalog: Path) -> None:
    path = _database(catalog)
    path.write_bytes(random.Random(1).randbytes(100) + path.read_bytes()[100:])


def _flip(path: Path, seed: int) -> None:
    """Some bits in each page."""
    luck, content = random.Random(seed), bytearray(path.read_bytes())
    for place in range(0, len(content), 512):
        content[luck.randrange(place, min(place + 512, len(content)))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)


def _flip_once(catalog: Path) -> None:
    _flip(_database(catalog), 2)


def _flip_again(catalog: Path) -> None:
    _flip(_database(catalog), 3)


def _flip_in_the_log(catalog: Path) -> None:
    _flip(catalog / "cache.db-wal", 4)


def _of_another_version(catalog: Path) -> None:
    with contextlib.closing(sqlite3.connect(_database(catalog))) as database, database:
        database.execute("ALTER TABLE Cache RENAME COLUMN value TO content")


def _of_other_rows(catalog: Path) -> None:
    """Rows that are JSON, but say something else."""
    with contextlib.closing(sqlite3.connect(_database(catalog))) as database, database:
        (row,) = database.execute("SELECT value FROM Cache ORDER BY rowid LIMIT 1").fetchone()
        database.execute("UPDATE Cache SET value = ?", (row,))


def _a_file(catalog: Path) -> None:
    shutil.rmtree(catalog)
    catalog.write_text("no folder")


def _a_folder_for_its_file(catalog: Path) -> None:
    for path in catalog.iterdir():
        path.unlink()
    (catalog / "cache.db").mkdir()


#: What becomes of it, and whether the daemon must notice: not where the rest of it still tells the truth.
_DAMAGES: dict[Callable[[Path], None], bool] = {
    _flip_in_the_log: False,  # first: the next daemons have little to log
    _delete: False,
    _empty: False,
    _halve: True,
    _begin_with_garbage: True,
    _flip_once: False,
    _flip_again: False,
    _of_another_version: True,
    _of_other_rows: False,
    _a_file: True,
    _a_folder_for_its_file: True,
}


def _begin(life: Life) -> None:
    """Something of everything, also an object that is gone."""
    life.begin()
    life.release("a", "two")
    (env,) = life.objects_of("2.0")
    life.remove(env, "two")


def test_whatever_becomes_of_the_catalog(world: World) -> None:
    """Objects, pins and references are as they were, nothing is built again; the log says what was done."""
    with world.life() as life:
        _begin(life)
        for damage, is_seen in _DAMAGES.items():
            life.daemon.kill()
            damage(life.store / "catalog-v1")
            before = life.daemon.log.stat().st_size
            life.start()
            holds(life, world.objects, damaged_catalog=True)
            said = life.daemon.log.read_text()[before:]
            if is_seen:
                assert "cannot be read" in said, damage
                assert str(life.store / "catalog-damaged") in said, damage
        life.daemon.kill()
        before = life.daemon.log.stat().st_size
        life.start()
        assert "catalog" not in life.daemon.log.read_text()[before:]
        holds(life, world.objects, damaged_catalog=True)
        goes_on(life)


def test_without_a_catalog_what_is_not_whole_is_put_aside(world: World) -> None:
    """Who works with it may go on, nobody else is given it; it is built anew, and the log says so."""
    with world.life() as life:
        _begin(life)
        (unreadable,), (empty,) = life.objects_of("1.0"), life.objects_of("gcs://")
        life.daemon.kill()
        shutil.rmtree(life.store / "catalog-v1")
        for name, content in ((unreadable, b"\x00garbage"), (empty, b"")):
            next(life.store.glob(f"markers-v1/*/{name}.json")).write_bytes(content)
        life.start()
        assert damaged(life.store).keys() <= {f"{unreadable}.0", f"{empty}.0"}
        assert f"{unreadable}.0" in damaged(life.store)  # the other one is used by nobody
        assert life.daemon.log.read_text().count("taken out of service") == 2
        old, raylet = life.model.contexts["b", "one"], life.raylets["b"]
        life.acquire("b", "one")
        life.acquire("a", "modules")
        use, prefix = life.uses["one"], "import sys; print(sys.prefix)"
        new = life.model.contexts["b", "one"]
        assert raylet.run(old, use.code) == raylet.run(new, use.code) == use.prints
        assert raylet.run(old, prefix) != raylet.run(new, prefix)
        life.model.pinned.clear()  # that it was pinned stood in its marker
        holds(life, world.objects)
        goes_on(life)


def test_a_catalog_of_long_ago(world: World) -> None:
    """One put back from a copy: what it says of objects that went or were pinned since is not believed."""
    with world.life() as life:
        _begin(life)
        life.daemon.kill()
        catalog, copy = life.store / "catalog-v1", life.folder / "copy"
        shutil.copytree(catalog, copy)
        life.start()
        (package,) = life.objects_of("gcs://")
        life.pin(package, value=False)
        life.collect("modules")
        life.acquire("a", "two")
        life.daemon.kill()
        shutil.rmtree(catalog)
        copy.rename(catalog)
        life.start()
        holds(life, world.objects)
        goes_on(life)


def test_buckets_of_other_layouts_are_collected_and_never_read(world: World) -> None:
    """Full of what would be good objects, sessions and rows in this layout, they change nothing and go."""
    with world.life() as life:
        _begin(life)
        life.daemon.kill()
        (user,) = (life.store / "users").iterdir()
        unknown = []
        for bucket in ("catalog-v1", "markers-v1", "sessions-v1"):
            unknown += [life.store / bucket.replace("1", number) for number in ("0", "2", "99")]
        for bucket in ("objects-v1", "interpreters-v1"):
            unknown += [user / bucket.replace("1", number) for number in ("0", "2", "99")]
        for path in unknown:
            shutil.copytree(path.with_name(f"{path.name.partition('-')[0]}-v1"), path, symlinks=True)
        life.start()
        holds(life, world.objects)
        assert [path for path in unknown if path.exists()] == []
        goes_on(life)
