"""Console scripts that a tool made for one interpreter, turned to run by another."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

#: The kernel reads no longer first line than this (BINPRM_BUF_SIZE, less the end).
_LONGEST = 126
_HEAD = 4096


def retarget(binaries: Path, old_python: Path, new_python: Path) -> None:
    """Makes every script in a folder that starts ``old_python`` start ``new_python``; blocking.

    uv installs with ``--prefix`` for the shadow's interpreter, which it knows already: asking a new
    environment's own interpreter costs it 40 ms. What it then writes into scripts is the shadow's path.
    """
    for path in _files(binaries):
        text = _retargeted(path, old_python.parent, new_python)
        if text is not None:
            # A new file: the old one may be a hard link into the cache.
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_bytes(text)
            fresh.chmod(stat.S_IMODE(path.stat().st_mode))
            fresh.replace(path)


def copy_scripts(source: Path, target: Path) -> None:
    """Gives an environment the commands of another: scripts for its own Python, links to the rest.

    Blocking. ``source`` and ``target`` are the ``bin`` folders; a command that both have is the source's.
    """
    for path in _files(source):
        copy = target / path.name
        copy.unlink(missing_ok=True)
        text = _retargeted(path, source, target / "python")
        if text is None:
            copy.symlink_to(path)
        else:
            _write(copy, text)


def write_script(path: Path, python: Path, text: str) -> None:
    """Writes a script that a Python runs; blocking."""
    _write(path, _first_lines(python) + b"\n" + text.encode())


def _write(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    path.chmod(0o755)


def _files(folder: Path) -> Iterator[Path]:
    """What is neither a link, as the names of Python itself are, nor a folder."""
    return (path for path in folder.iterdir() if not path.is_symlink() and path.is_file())


def _retargeted(path: Path, old_folder: Path, new_python: Path) -> bytes | None:
    """The text of a script that starts the folder's Python, made to start the new one; None for all else."""
    old = os.fsencode(old_folder)
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        if not head.startswith(b"#!") or old not in head:
            return None
        body = head + stream.read()
    lines = body.split(b"\n")
    # A path that is too long for the kernel is run by way of sh: three lines in place of one.
    count = 3 if lines[0] == b"#!/bin/sh" and len(lines) > 2 and old in lines[1] else 1  # noqa: PLR2004 - see above
    if count == 1 and old not in lines[0]:
        return None
    return b"\n".join((_first_lines(new_python), *lines[count:]))


def _first_lines(python: Path) -> bytes:
    text = os.fsencode(python)
    if len(text) <= _LONGEST and b" " not in text:
        return b"#!" + text
    return b"#!/bin/sh\n'''exec' \"" + text + b'" "$0" "$@"\n\' \'\'\''
