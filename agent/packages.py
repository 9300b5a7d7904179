"""Packages that URIs name: from anywhere into the store once, by content.

Two levels, as for everything: a request digest (the URI, and a token of its freshness) leads to the archive's
own digest, which names the object. A ``gcs://`` package is named by its content, so it never expires; others
are asked for their validator again after ``resolution_ttl``, and a server that cannot be reached then does
not fail an env whose package is here.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ray_envd.agent.bench import Bench
from ray_envd.agent.errors import NetworkError
from ray_envd.agent.fetch import FetchContext, GcsEndpoint, fetch, validator
from ray_envd.agent.redaction import redact_urls
from ray_envd.agent.room import Report, Room
from ray_envd.agent.sessions import Session
from ray_envd.agent.workshop import Made
from ray_envd.cache.keys import ObjectKey, digest_of
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.store import Build, Entry

_UNREACHABLE = "unreachable"
#: Set aside for a package of unknown size until more is known: the bytes of a few reports of the download.
_GUESS_BYTES = 8 * 1024**2
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.whl")


class Packages:
    """Gets archives into the store."""

    def __init__(self, *, resolution_ttl: float, max_bytes: int) -> None:
        self._ttl, self._max_bytes = resolution_ttl, max_bytes

    async def archive(
        self, uri: str, bench: Bench, field: str, coming: Callable[[Path, int], None]
    ) -> tuple[Entry, bool]:
        """The archive that a URI names, held by the bench, and whether it had to be fetched.

        While it is fetched for this bench, ``coming`` is called with the file and the bytes so far.

        Raises:
            DownloadError: it cannot be had; NetworkError where that may pass.
        """
        fresh = digest_of("package", uri)
        known = await bench.linked(fresh)
        if known is not None:
            return known, False
        context = self._context(bench)
        sizes: list[int] = []
        token = await self._token(uri, fresh, context, bench, field, sizes.append)
        version = digest_of("package", uri, token)
        unreachable = token is _UNREACHABLE
        known = await bench.linked(fresh if unreachable else version, expired=unreachable)
        if known is not None:
            await bench.link(fresh, known.key, None if _is_immutable(uri) else self._ttl)
            return known, False
        name = ("package", bench.session.owner.uid, version)
        size = max(sizes, default=_GUESS_BYTES)
        download = partial(self._download, name, uri, context, field, size, coming)
        key, told = await bench.share(name, download)
        entry = bench.hold(key)
        if entry is None:  # collected between its arrival and now
            raise NetworkError("the package was collected before it could be used", field=field)
        for each in {token, told} - {None}:
            await bench.link(digest_of("package", uri, each), key, None)
        await bench.link(fresh, key, None if _is_immutable(uri) else self._ttl)
        return entry, True

    async def _token(
        self,
        uri: str,
        fresh: str,
        context: FetchContext,
        bench: Bench,
        field: str,
        sized: Callable[[int], None],
    ) -> str | None:
        """The source's token of freshness; a source out of reach is forgiven if the package is here.

        Of a package that is not here nothing is asked: None, unless the URI is a token itself; its first
        download tells. ``sized`` hears the package's size, if the source tells it.
        """
        if not bench.was_linked(fresh):
            return uri if _is_immutable(uri) else None
        try:
            async with bench.slot():
                return await validator(uri, context, field=field, report=lambda _done, total: sized(total))
        except NetworkError as error:
            if not bench.was_linked(fresh):
                raise
            bench.reporter(field)("source not reachable, the stored package is used", error.cause)
            return _UNREACHABLE

    async def _download(
        self,
        name: Hashable,
        uri: str,
        context: FetchContext,
        field: str,
        size: int,
        coming: Callable[[Path, int], None],
        bench: Bench,
    ) -> tuple[ObjectKey, str | None]:
        """The archive's key, and the token that the source gave with it."""
        shown = redact_urls(uri.partition("#")[0])
        report = bench.reporter(field)

        async def work(room: Room) -> tuple[ObjectKey, str | None]:
            report("downloading", shown)
            staging = await bench.thread(_staging_file, bench)
            room.writes_to(staging, bench.session.owner)

            def heard(done: int, total: int) -> None:
                # Of what comes without a size, more is set aside than has come.
                room.need(total or done + max(done // 4, _GUESS_BYTES))
                report("downloading", shown, done=done, total=total)
                coming(staging, done)

            try:
                with bench.workshop.metrics.builds.phase("archive", "download"):
                    fetched = await fetch(
                        uri, staging, context, field=field, report=heard, secure=room.secure
                    )
                key = bench.key("archive", fetched.sha256)
                fill = partial(_move_in, staging, _file_name(uri), bench.session.owner, fetched.bytes)
                await bench.obtain(key, fill, field=field, summary=shown, reserve=0)
            finally:
                await asyncio.shield(bench.thread(_discard, staging, bench.session.owner))
            return key, fetched.validator

        return await bench.workshop.space.run(name, size, work, field=field, report=report)

    def _context(self, bench: Bench) -> FetchContext:
        session = bench.session
        return FetchContext(
            owner=session.owner,
            environment=session.environment,
            gcs=gcs_endpoint(session),
            redact=bench.spec.redactor,
            max_bytes=self._max_bytes,
        )


def gcs_endpoint(session: Session) -> GcsEndpoint | None:
    """How to reach the GCS of the session's cluster."""
    if not session.gcs_address:
        return None
    environment = session.environment
    tls = environment.get("RAY_USE_TLS", "0").lower() in {"1", "true"}
    return GcsEndpoint(
        address=session.gcs_address,
        token=session.token if session.auth else None,
        server_cert=environment.get("RAY_TLS_SERVER_CERT") if tls else None,
        server_key=environment.get("RAY_TLS_SERVER_KEY") if tls else None,
        ca_cert=environment.get("RAY_TLS_CA_CERT") if tls else None,
    )


def archive_path(entry: Entry) -> Path:
    """The archive file of an object of kind ``archive``."""
    return entry.path / str(entry.details["file"])


def _staging_file(bench: Bench) -> Path:
    return bench.staging() / f"download-{secrets.token_hex(8)}"


async def _move_in(
    staging: Path, name: str, owner: Owner, size: int, build: Build, _report: Report, _room: Room
) -> Made:
    def move() -> None:
        with acting_as(owner):
            staging.replace(build.path / name)

    await asyncio.to_thread(move)
    return Made({"file": name}, fetched_bytes=size, stamped=(name,))


def _file_name(uri: str) -> str:
    """What an archive is called in its object: a wheel's name says what it is, the others' says nothing."""
    name = urlsplit(uri).path.rpartition("/")[2] or urlsplit(uri).netloc
    return name if _WHEEL.fullmatch(name) else "archive"


def _discard(path: Path, owner: Owner) -> None:
    with acting_as(owner):
        path.unlink(missing_ok=True)


def _is_immutable(uri: str) -> bool:
    """Whether a URI can only ever name the same bytes."""
    return uri.startswith("gcs://") or "#sha256=" in uri
