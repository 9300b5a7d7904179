"""Which wheel brought which file of an environment: from the wheels' own RECORDs."""

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_CACHE = "__pycache__"


def wheel_files(site_packages: Path, root: Path) -> dict[str, str]:
    """The distribution of each file below ``site_packages``, by the file's path relative to ``root``.

    Blocking; call as the owner. A RECORD that is missing or cannot be read names nothing.
    """
    prefix = site_packages.relative_to(root).as_posix()
    return {
        f"{prefix}/{path}": info.name
        for info in site_packages.glob("*.dist-info")
        for path in _recorded(info / "RECORD")
    }


def compiled_files(files: Mapping[str, str], root: Path) -> dict[str, str]:
    """What was compiled of :func:`wheel_files` since, apart from what the wheels brought.

    Blocking; call as the owner.
    """
    return {path: name for path, name in _compiled(files, root) if path not in files}


def _compiled(files: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    for folder in {path.rpartition("/")[0] for path in files if path.endswith(".py")}:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(root / folder / _CACHE):  # noqa: PTH208 - names are enough
                wheel = files.get(f"{folder}/{name.partition('.')[0]}.py")
                if wheel is not None:
                    yield f"{folder}/{_CACHE}/{name}", f"{wheel} {_CACHE}"


def _recorded(record: Path) -> Iterator[str]:
    try:
        with record.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                # What lies elsewhere (scripts, data files) is nobody else's: installers write those anew.
                if row and ".." not in row[0].split("/"):
                    yield row[0]
    except (OSError, UnicodeDecodeError, csv.Error):
        return
