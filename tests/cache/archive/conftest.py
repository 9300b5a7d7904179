"""Where archives are unpacked."""

from pathlib import Path

import pytest
from archive_makers import SECRET


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds nothing but the target, beside a file that no archive may touch."""
    (tmp_path / SECRET).write_text("untouched")
    folder = tmp_path / "place"
    folder.mkdir()
    return folder
