"""Fixtures of the store's tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from shelf import let_pass

from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.references import References
from ray_envd.cache.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    opened = Store.open(root)
    yield opened
    opened.close()


@pytest.fixture
def references(store: Store) -> Iterator[References]:
    opened = References.open(store.layout.sessions)
    yield opened
    opened.close()


@pytest.fixture
def nobody() -> Owner:
    """Another user; only root can act as one."""
    if os.geteuid() != 0:
        pytest.skip("needs root to act as another user")
    return Owner(65534, 65534)


@pytest.fixture
def as_nobody(nobody: Owner, tmp_path: Path) -> Iterator[None]:
    """Runs the test as another user, whose ``tmp_path`` is."""
    let_pass(tmp_path)
    os.chown(tmp_path, nobody.uid, nobody.gid)
    with acting_as(nobody):
        yield
