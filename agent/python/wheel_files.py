"""Which wheel brought which file of an environment: from the wheels' own RECORDs."""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


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


def _recorded(record: Path) -> Iterator[str]:
    try:
        with record.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                # What lies elsewhere (scripts, data files) is nobody else's: installers write those anew.
                if row and ".." not in PurePosixPath(row[0]).parts:
                    yield row[0]
    except (OSError, UnicodeDecodeError, csv.Error):
        return
