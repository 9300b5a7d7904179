"""Podman with its own storage, and a registry; the fixtures are in tests/podman_fixtures.py."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs podman."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.podman)
