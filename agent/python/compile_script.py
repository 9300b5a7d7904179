"""Compiles what a folder holds, so that no worker has to write into it.

What another environment has compiled from the very same files (hard links to one wheel in uv's cache) is
linked from there: further arguments name the site-packages of such environments. A compiled module names its
source's time and size, which are the inode's; the path in it is set right when it is imported
(``importlib._bootstrap_external._compile_bytecode``).

Runs under the *environment's* interpreter, 3.9 or later: standard library only, no syntax newer than 3.9,
nothing of this project imported. :mod:`ray_envd.agent.python.bytecode` passes the source with ``-c``, so
that it works for users who cannot read the daemon's own files.
"""

from __future__ import annotations

import compileall
import csv
import os
import re
import stat
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

#: Nice value: behind whatever else runs, but not so far that a busy node never comes to it.
_NICE = 15

#: Packages' own tests: of numpy and pandas they are half of all code, and workers do not import them.
_TESTS = re.compile(re.escape(sys.argv[1]) + "(/.*)?/tests/")

_SUFFIX = "." + (sys.implementation.cache_tag or "") + ".pyc"


def _take_from(donor: Path, own: Path) -> None:
    for info in own.glob("*.dist-info"):
        # Installers write the other files of this folder anew; this one is the wheel's.
        if _is_same(donor / info.name / "METADATA", info / "METADATA"):
            with (info / "RECORD").open(encoding="utf-8", newline="") as record:
                for row in csv.reader(record):
                    if row and row[0].endswith(".py") and _stays_below(row[0]):
                        _take(donor, own, Path(row[0]))


def _is_same(theirs: Path, mine: Path) -> bool:
    try:
        return os.path.samestat(theirs.lstat(), mine.lstat())
    except OSError:
        return False


def _stays_below(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _take(donor: Path, own: Path, module: Path) -> None:
    """Links what was compiled from a source; also in place of what this environment's workers compiled."""
    compiled = module.parent / "__pycache__" / (module.stem + _SUFFIX)
    source, target = donor / compiled, own / compiled
    try:
        if not stat.S_ISREG(source.lstat().st_mode) or not _is_same(donor / module, own / module):
            return
        if _is_same(source, target):
            return
        target.parent.mkdir(exist_ok=True)
        aside = target.with_name(target.name + ".0")  # so Python itself calls what it has not finished
        if os.path.lexists(aside):
            aside.unlink()
        os.link(source, aside, follow_symlinks=False)
        aside.replace(target)
    except OSError:
        return  # then it is compiled here


os.nice(_NICE)
for _donor in sys.argv[2:]:
    try:
        _take_from(Path(_donor), Path(sys.argv[1]))
    except (OSError, UnicodeDecodeError, csv.Error):
        continue
# What does not compile (templates, another Python's syntax) is nobody's fault.
compileall.compile_dir(
    sys.argv[1], rx=_TESTS, quiet=2, workers=1, invalidation_mode=PycInvalidationMode.TIMESTAMP
)
