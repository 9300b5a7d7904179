"""What the local files and folders hold that a spec names: their content decides what is built of them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ray_envd.cache.keys import file_digest
from ray_envd.cache.owner import Owner, acting_as

#: What tools leave in a folder of sources without changing what is built of it.
_PASSED_OVER = frozenset({".git", "__pycache__"})


def contents(paths: Sequence[Path], owner: Owner) -> dict[Path, str]:
    """Digests of files, and of folders with all in them. Blocking.

    Raises:
        OSError: one is not there, or not for its owner to read.
    """
    with acting_as(owner):
        return {path: _tree_digest(path) if path.is_dir() else file_digest(path) for path in paths}


def _tree_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _PASSED_OVER)
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
