"""What stands in a tree, and what it should be by the word of the wheels that brought it.

Run as ``python -I -m ray_envd.cache.inventory FOLDER [--digests]`` by a child of the daemon, as the tree's
owner and at a low priority: to walk ten thousand files in the daemon would hold up its other threads.
Standard library only. It prints lists in JSON, each file as :class:`Found`'s values in their order, a few
hundred files a line: to read all of a large one at once would stop the daemon for as long.

Wheels list their files with digests in ``<name>-<version>.dist-info/RECORD`` (PEP 376 and 627; the "Recording
installed projects" specification of packaging.python.org).
"""

import base64
import binascii
import csv
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

#: What stands before each line of JSON, so that it is found among whatever else is printed.
MARK = "ray-envd-inventory:"
#: Nice value: behind whatever else runs, but not so far that a busy node never comes to it.
_NICE = 15
_FOLDER, _FILE, _LINK, _OTHER = "d", "f", "l", "?"
_INFO = ".dist-info"
_A_LINE = 200  # files


class Found(NamedTuple):
    """One entry of a tree.

    Attributes:
        path: relative to the tree.
        type: ``f`` for files, ``l`` for links, ``d`` for folders, ``?`` for anything else.
        mode: permissions.
        size: bytes of a file.
        mtime_ns: of a file.
        content: sha256 of a file, if asked for; where a link leads. After a ``!`` why it cannot be read.
        links: how many names a file has.
        package: which distribution's RECORD names it.
        is_unlike: whether its content is not what that says.
    """

    path: str
    type: str
    mode: int
    size: int
    mtime_ns: int
    content: str
    links: int
    package: str = ""
    is_unlike: bool = False


def take(root: str, *, digests: bool) -> list[Found]:
    """Everything in a tree, ordered by path; blocking, as its owner. Links are never followed.

    Args:
        root: the tree.
        digests: read the files as well, and compare them with what RECORDs say.

    Raises:
        OSError: a folder cannot be read; what vanishes meanwhile is left out.
    """
    found = list(_walk(root, digests=digests))
    if digests:
        recorded = _recorded(root, found)
        found = [_compared(each, *recorded[each.path]) if each.path in recorded else each for each in found]
    return sorted(found)


def _walk(root: str, *, digests: bool) -> Iterator[Found]:
    pending = [root]
    skip = len(root) + 1
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                try:
                    state = entry.stat(follow_symlinks=False)
                    yield _found(entry.path, skip, state, digests=digests)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(state.st_mode):
                    pending.append(entry.path)


def _found(path: str, skip: int, state: os.stat_result, *, digests: bool) -> Found:
    mode, relative = stat.S_IMODE(state.st_mode), path[skip:]
    if stat.S_ISREG(state.st_mode):
        content = _digest(path) if digests else ""
        return Found(relative, _FILE, mode, state.st_size, state.st_mtime_ns, content, state.st_nlink)
    if stat.S_ISLNK(state.st_mode):
        return Found(relative, _LINK, 0, 0, 0, os.readlink(path), 1)  # noqa: PTH115 - the text as it is
    return Found(relative, _FOLDER if stat.S_ISDIR(state.st_mode) else _OTHER, mode, 0, 0, "", 1)


def _digest(path: str) -> str:
    try:
        # Neither a link nor a pipe that took the file's place is followed or waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"!{error.strerror}"


def _recorded(root: str, found: list[Found]) -> dict[str, tuple[str, str]]:
    """By path: the distribution that brought the file, and its sha256 if the RECORD tells."""
    recorded: dict[str, tuple[str, str]] = {}
    for each in found:
        folder, _, name = each.path.rpartition("/")
        if name == "RECORD" and folder.endswith(_INFO) and each.type == _FILE:
            package = folder.rpartition("/")[2].removesuffix(_INFO).partition("-")[0]
            base = folder.rpartition("/")[0]
            for path, digest in _rows(os.path.join(root, each.path)):  # noqa: PTH118 - runs for every file
                # Scripts lie elsewhere; installers write them, and we make them start the right Python.
                known = "" if path.startswith("..") else digest
                recorded[os.path.normpath(f"{base}/{path}").lstrip("/")] = package, known
    return recorded


def _rows(record: str) -> Iterator[tuple[str, str]]:
    try:
        with open(record, encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                if len(row) >= 2:  # noqa: PLR2004 - path, digest, size
                    yield row[0], _hexadecimal(row[1])
    except (OSError, UnicodeDecodeError, csv.Error):
        return  # it says nothing, then; its own digest is in the inventory


def _hexadecimal(digest: str) -> str:
    """RECORD's ``sha256=`` in URL-safe base64 without padding, as hexadecimal; empty for anything else."""
    algorithm, _, value = digest.partition("=")
    if algorithm != "sha256":
        return ""
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except (binascii.Error, ValueError):
        return ""


def _compared(each: Found, package: str, digest: str) -> Found:
    unlike = each.type == _FILE and bool(digest) and each.content != digest
    return each._replace(package=package, is_unlike=unlike)


def to_lines(found: Sequence[Found]) -> Iterator[str]:
    """An inventory as lines of JSON."""
    for start in range(0, len(found), _A_LINE):
        yield json.dumps(found[start : start + _A_LINE])


def parse(lines: Iterable[str]) -> list[Found]:
    """Reads what :func:`to_lines` wrote.

    Raises:
        ValueError: it is not of that form.
    """
    try:
        return [Found(*each) for line in lines for each in json.loads(line)]
    except TypeError as error:
        raise ValueError(f"not an inventory: {error!r}") from error


def main() -> int:
    """Prints the inventory of the folder that the command line names."""
    os.nice(_NICE)
    for line in to_lines(take(sys.argv[1], digests="--digests" in sys.argv[2:])):
        print(MARK + line)  # noqa: T201 - that is its job
    return 0


if __name__ == "__main__":
    sys.exit(main())
