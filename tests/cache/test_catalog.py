"""The catalog's rows: kept in shards, taken over from earlier versions, lost by the shard at worst."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest

from ray_envd.cache.catalog import Catalog

Open = Callable[[], Catalog]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Open]:
    """Opens the catalog anew; the one before is closed."""
    opened: list[Catalog] = []

    def open_() -> Catalog:
        close()
        opened.append(Catalog.open(tmp_path / "catalog", tmp_path / "aside"))
        return opened[-1]

    def close() -> None:
        for each in opened:
            each.close()

    yield open_
    close()


def rows(numbers: range) -> dict[str, Any]:
    """Rows with names as objects have them."""
    return {f"1000/pip/{number:064x}": {"n": number} for number in numbers}


def test_rows_come_back(reopen: Open) -> None:
    """What was written and not dropped is there, the last value of each."""
    catalog = reopen()
    catalog.put_many(rows(range(1000)).items())
    catalog.put_many((name, {"new": True}) for name in rows(range(10)))
    catalog.drop([*rows(range(990, 1000)), "1000/pip/never"])
    found = reopen().rows
    assert found == rows(range(10, 990)) | {name: {"new": True} for name in rows(range(10))}


def test_ten_thousand_rows_cost_few_values(reopen: Open, tmp_path: Path) -> None:
    """A start reads shards, not rows, and they are about equally large."""
    reopen().put_many(rows(range(10_000)).items())
    reopen().close()
    with diskcache.Cache(str(tmp_path / "catalog"), disk=diskcache.JSONDisk) as cache:
        sizes = [len(cache[name]) for name in cache]
    assert len(sizes) <= 256
    assert sum(sizes) == 10_000
    assert max(sizes) < 100


def test_a_damaged_shard_costs_its_rows_only(reopen: Open, tmp_path: Path) -> None:
    """The others are read, and the damaged one can be written again."""
    reopen().put_many(rows(range(1000)).items())
    reopen().close()
    with sqlite3.connect(tmp_path / "catalog/cache.db") as database:
        (most,) = database.execute("SELECT max(length(value)) FROM Cache").fetchone()
        database.execute("UPDATE Cache SET value = zeroblob(?) WHERE length(value) = ?", (most, most))
    database.close()
    catalog = reopen()
    lost = rows(range(1000)).keys() - catalog.rows.keys()
    assert 0 < len(lost) < 50
    assert not (tmp_path / "aside").exists()
    catalog.put_many(rows(range(1000)).items())
    assert reopen().rows == rows(range(1000))


def test_single_rows_of_an_earlier_version_are_taken_over(reopen: Open, tmp_path: Path) -> None:
    """They come back as they were, and stand in shards from then on."""
    with diskcache.Cache(str(tmp_path / "catalog"), disk=diskcache.JSONDisk) as cache:
        for name, row in rows(range(300)).items():
            cache[name] = row
    assert reopen().rows == rows(range(300))
    catalog = reopen()
    assert catalog.rows == rows(range(300))
    catalog.drop(rows(range(299)))
    assert reopen().rows == rows(range(299, 300))


def test_a_database_of_something_else_is_moved_aside(reopen: Open, tmp_path: Path) -> None:
    """Keys that are no names of ours are damage: the catalog begins anew."""
    with diskcache.Cache(str(tmp_path / "catalog"), disk=diskcache.JSONDisk) as cache:
        cache[7] = "seven"
    assert reopen().rows == {}
    assert (tmp_path / "aside/cache.db").exists()
