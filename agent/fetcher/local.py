"""``file://``: a file of this node, or of a file system that all nodes mount."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from ray_envd.agent.fetcher.sink import CHUNK, Failure, Source

#: Network file systems say so when their server is away.
_PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN, errno.EAGAIN}
)


@contextmanager
def opened(uri: str) -> Iterator[Source]:
    """Opens the file of a ``file://`` URI.

    Raises:
        Failure: it is not there, may not be read, or is no regular file.
    """
    path = unquote(urlsplit(uri).path)
    try:
        # Not blocking: a pipe of that name would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _failure(error) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise Failure("permanent", "it is not a regular file")
    with open(descriptor, "rb", buffering=0):
        yield Source(
            f"{facts.st_dev}-{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}",
            facts.st_size,
            _chunks(descriptor),
        )


def _chunks(descriptor: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(descriptor, CHUNK):
            yield chunk
    except OSError as error:
        raise _failure(error) from error


def _failure(error: OSError) -> Failure:
    reason = error.strerror or type(error).__name__
    if error.errno in _PASSING:
        return Failure("network", f"it cannot be read now: {reason}")
    remedy = "the file must be on every node and readable by the user who started Ray"
    return Failure("permanent", f"it cannot be read: {reason}", remedy)
