"""What every source hands over, and how it gets into the file."""

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ray_envd.cache.writing import write_all

CHUNK = 1 << 20
Chunk = bytes | memoryview
#: Files of which reading goes on while they are hashed and written.
_LARGE = 8 << 20
_PROGRESS_SECONDS, _PROGRESS_BYTES = 0.2, 16 << 20
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Kind = Literal["permanent", "network", "too_large", "no_space", "destination"]


class Failure(Exception):  # noqa: N818 - it is an outcome that the parent turns into a typed error
    """The file cannot be had.

    Attributes:
        kind: ``network`` may pass by itself; ``destination`` is the caller's folder.
        cause: one sentence without the URI, which the parent shows in its redacted form.
        remedy: what the user can do; may be empty.
    """

    def __init__(self, kind: Kind, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.kind, self.cause, self.remedy = kind, cause, remedy


@dataclass(frozen=True)
class Source:
    """An open source: its token of freshness, its size (None: not told) and its content."""

    validator: str | None
    total: int | None
    chunks: Iterator[Chunk]


def say(message: dict[str, object]) -> None:
    """One line to the parent. A daemon that is gone ends this program; its successor sweeps the file."""
    try:
        print(json.dumps(message), flush=True)  # noqa: T201 - stdout is the channel to the parent
    except BrokenPipeError:
        sys.exit(1)


def store(source: Source, destination: str, max_bytes: int, *, asks: bool) -> dict[str, object]:
    """Writes the source to a new file of mode 0600.

    Args:
        source: open.
        destination: does not exist.
        max_bytes: more is an error.
        asks: whether to wait until the parent has room. A daemon whose installation was upgraded under it, so
            that this program is newer, does not know of that: it hears the size and says nothing.

    Raises:
        Failure: also when it is not as long as it said.
    """
    if source.total is not None and source.total > max_bytes:
        raise _too_large(source.total, max_bytes)
    if asks:
        _ask_for_room(source.total or 0)
    else:
        say({"done": 0, "total": source.total or 0})
    try:
        descriptor = os.open(destination, _NEW_FILE, 0o600)
    except OSError as error:
        raise _unwritable(error) from error
    digest = hashlib.sha256()
    done, told, due = 0, 0, 0.0

    def take(chunk: Chunk) -> None:
        digest.update(chunk)
        try:
            write_all(out.fileno(), chunk)
        except OSError as error:
            raise _unwritable(error) from error

    with open(descriptor, "wb", buffering=0) as out, _behind(source.total, take) as put:
        for chunk in source.chunks:
            done += len(chunk)
            if done > max_bytes:
                raise _too_large(done, max_bytes)
            put(chunk)
            now = time.monotonic()
            if now >= due or done >= told + _PROGRESS_BYTES:
                due, told = now + _PROGRESS_SECONDS, done
                say({"done": done, "total": source.total or 0})
    if source.total is not None and done != source.total:
        raise Failure("network", f"the transfer ended after {done} of {source.total} bytes")
    return {"sha256": digest.hexdigest(), "bytes": done, "validator": source.validator}


def _ask_for_room(size: int) -> None:
    """Returns when the parent has room for so many bytes; a parent that is gone ends this program."""
    say({"needs": size})
    if not os.read(sys.stdin.fileno(), 1):
        sys.exit(1)


@contextmanager
def _behind(total: int | None, take: Callable[[Chunk], None]) -> Iterator[Callable[[Chunk], None]]:
    """Gives chunks to ``take``; those of a large file in another thread, while the next chunk is read."""
    if (total or _LARGE) < _LARGE:
        yield take
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - takes longer than a small download

    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(take, b"")

        def put(chunk: Chunk) -> None:
            nonlocal last
            last.result()
            last = pool.submit(take, chunk)

        yield put
        last.result()


def _too_large(size: int, max_bytes: int) -> Failure:
    return Failure("too_large", f"the file has {size} bytes or more, and at most {max_bytes} fit here")


def _unwritable(error: OSError) -> Failure:
    kind: Kind = "no_space" if error.errno in _NO_SPACE else "destination"
    return Failure(kind, f"the file cannot be written: {error.strerror or type(error).__name__}")
