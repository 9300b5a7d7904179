"""Fetching a package into a file, and asking whether it has changed."""

import asyncio
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.errors import DiskFullError, DownloadError, NeverFitsError
from ray_envd.agent.fetch import child, gcs
from ray_envd.agent.fetch.context import FetchContext, Fetched, GcsEndpoint, Report, Secure
from ray_envd.agent.fetch.uri import GCS, Uri, parse_uri
from ray_envd.cache.owner import acting_as

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _nobody(_done: int, _total: int) -> None:
    """Nobody wants to know."""


async def _anything(_size: int) -> None:
    """There is room for anything."""


async def fetch(
    uri: str,
    destination: Path,
    context: FetchContext,
    *,
    field: str,
    report: Report = _nobody,
    secure: Secure = _anything,
) -> Fetched:
    """Gets the package of a URI into a new file of mode 0600 that belongs to the context's owner.

    A fragment ``#sha256=<hex>`` is the digest that must come. After a failure or a cancellation there is
    no file.

    Args:
        uri: any but ``local://``.
        destination: does not exist; the owner may write in its folder.
        context: on whose behalf.
        field: for messages, and for the extensions that are allowed.
        report: called on the event loop, as it arrives.
        secure: awaited with the size before anything is written, if the source tells it.

    Raises:
        InvalidSpecError: the URI is not valid.
        DownloadError: not found, denied, wrong digest; it will not be otherwise next time.
        NetworkError: not reachable, cut off, a server's failure; it may be otherwise next time.
        NeverFitsError: larger than ``max_bytes``.
        DiskFullError: no room on the disk now.
    """
    parsed = parse_uri(uri, field)
    await asyncio.to_thread(_require_absent, destination, context, field)
    arrived = False
    try:
        if parsed.scheme == GCS:
            fetched = await _from_gcs(parsed, destination, context, field, report, secure)
        else:
            result = await child.run(parsed, destination, context, field=field, report=report, secure=secure)
            fetched = _fetched(result, field)
        _check_digest(parsed, fetched, context, field)
        arrived = True
    finally:
        if not arrived:
            await asyncio.shield(asyncio.to_thread(_remove, destination, context))
    report(fetched.bytes, fetched.bytes)
    return fetched


async def validator(uri: str, context: FetchContext, *, field: str, report: Report = _nobody) -> str | None:
    """A token that changes when the package does, had without downloading; None where the source has none.

    ``report`` is told the size, if the source tells it.

    ``gcs://`` names are made of the content: the URI is the token, and with ``#sha256=`` the digest is.
    A file has device, inode, time and size; the others an ETag, else time and size.

    Raises:
        InvalidSpecError, DownloadError, NetworkError: as for :func:`fetch`.
    """
    parsed = parse_uri(uri, field)
    if parsed.scheme == GCS:
        return parsed.text
    if parsed.sha256 is not None:
        return f"sha256 {parsed.sha256}"
    result = await child.run(parsed, None, context, field=field, report=_nobody, secure=_anything)
    token, size = result.get("validator"), result.get("bytes")
    if isinstance(size, int):
        report(0, size)
    return None if token is None else str(token)


def _fetched(result: Mapping[str, Any], field: str) -> Fetched:
    sha256, size, token = result.get("sha256"), result.get("bytes"), result.get("validator")
    if isinstance(sha256, str) and _SHA256.fullmatch(sha256) and isinstance(size, int):
        return Fetched(sha256, size, None if token is None else str(token))
    raise DownloadError("the download answered nonsense", field=field)


async def _from_gcs(
    uri: Uri, destination: Path, context: FetchContext, field: str, report: Report, secure: Secure
) -> Fetched:
    endpoint = _endpoint(context, field)
    value = await gcs.get(uri.text, endpoint, context.owner, field=field)
    loop, size = asyncio.get_running_loop(), len(value)
    report(0, size)
    if size > context.max_bytes:
        raise NeverFitsError(
            f"{uri.shown}: the file has {size} bytes, and at most {context.max_bytes} fit here", field=field
        )
    await secure(size)

    def written(done: int) -> None:
        loop.call_soon_threadsafe(report, done, size)

    try:
        digest = await to_the_end(asyncio.to_thread(gcs.save, value, destination, context.owner, written))
    except OSError as error:
        kind = DiskFullError if error.errno in _NO_SPACE else DownloadError
        raise kind(f"{uri.shown}: the file cannot be written: {error.strerror}", field=field) from error
    finally:
        # Half a gigabyte takes a tenth of a second to give back, which nobody waits for.
        loop.run_in_executor(None, value.release)
    return Fetched(digest, size, uri.text)


def _endpoint(context: FetchContext, field: str) -> GcsEndpoint:
    if context.gcs is None:
        raise DownloadError(
            "a gcs:// package is asked for, and no cluster is known to take it from",
            field=field,
            remedy="use this URI from a Ray cluster, or one of another protocol",
        )
    return context.gcs


def _check_digest(uri: Uri, fetched: Fetched, context: FetchContext, field: str) -> None:
    if uri.sha256 not in {None, fetched.sha256}:
        raise DownloadError(
            context.redact(f"{uri.shown}: its sha256 is {fetched.sha256}, and {uri.sha256} is expected"),
            field=field,
            remedy="the file was changed or exchanged; correct the URI's #sha256= if that was meant to be",
        )


def _require_absent(path: Path, context: FetchContext, field: str) -> None:
    """What fails is removed afterwards: never let that be somebody else's file."""
    with acting_as(context.owner):
        if os.path.lexists(path):
            raise DownloadError(f"{path} is there already", field=field)


def _remove(path: Path, context: FetchContext) -> None:
    with acting_as(context.owner):
        try:
            path.unlink(missing_ok=True)
        except OSError:  # a folder that the owner may not write: then there is no file of ours
            return
