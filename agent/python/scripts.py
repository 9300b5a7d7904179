"""Console scripts that a tool made for one interpreter, turned to run by another."""

import os
import stat
from pathlib import Path

#: The kernel reads no longer first line than this (BINPRM_BUF_SIZE, less the end).
_LONGEST = 126
_HEAD = 4096


def retarget(binaries: Path, old_python: Path, new_python: Path) -> None:
    """Makes every script in a folder that starts ``old_python`` start ``new_python``; blocking.

    uv installs with ``--prefix`` for the shadow's interpreter, which it knows already: asking a new
    environment's own interpreter costs it 40 ms. What it then writes into scripts is the shadow's path.
    """
    for path in binaries.iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if head.startswith(b"#!") and os.fsencode(old_python.parent) in head:
            _rewrite(path, os.fsencode(old_python.parent), new_python)


def _rewrite(path: Path, old_folder: bytes, new_python: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    body = path.read_bytes()
    lines = body.split(b"\n")
    # A path that is too long for the kernel is run by way of sh: three lines in place of one.
    count = 3 if lines[0] == b"#!/bin/sh" and len(lines) > 2 and old_folder in lines[1] else 1  # noqa: PLR2004
    if count == 1 and old_folder not in lines[0]:
        return
    # A new file: the old one may be a hard link into the cache.
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(b"\n".join((_first_lines(new_python), *lines[count:])))
    fresh.chmod(mode)
    fresh.replace(path)


def _first_lines(python: Path) -> bytes:
    text = os.fsencode(python)
    if len(text) <= _LONGEST and b" " not in text:
        return b"#!" + text
    return b"#!/bin/sh\n'''exec' \"" + text + b'" "$0" "$@"\n\' \'\'\''
