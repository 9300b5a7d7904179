"""Which wheel brought which file of an environment: from the wheels' own RECORDs."""

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

_CACHE = "__pycache__"


def wheel_files(site_packages: Path, root: Path, *, compiled: bool = False) -> dict[str, str]:
    """The distribution of each file below ``site_packages``, by the file's path relative to ``root``.

    With ``compiled`` also of the modules that were compiled since, which environments share apart from the
    wheels' own files. Blocking; call as the owner. A RECORD that is missing or cannot be read names nothing.
    """
    prefix = site_packages.relative_to(root).as_posix()
    found = {
        f"{prefix}/{path}": info.name
        for info in site_packages.glob("*.dist-info")
        for path in _recorded(info / "RECORD")
    }
    return {**dict(_compiled(found, root)), **found} if compiled else found


def _compiled(files: Mapping[str, str], root: Path) -> Iterator[tuple[str, str]]:
    """The modules that were compiled from these, as a unit of their own of each distribution."""
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
                if row and ".." not in PurePosixPath(row[0]).parts:
                    yield row[0]
    except (OSError, UnicodeDecodeError, csv.Error):
        return
