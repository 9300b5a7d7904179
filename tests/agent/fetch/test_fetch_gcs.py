"""gcs:// against a server that speaks the key-value service of Ray's control store."""

import dataclasses
from pathlib import Path

import grpc
import pytest
from fetch_servers import FIELD, Authority, MakeContext, Serve, ServeGcs, content, mode, names, remove

from ray_envd.agent.errors import DownloadError, NetworkError, NeverFitsError, Retry
from ray_envd.agent.fetch import GcsEndpoint, fetch, validator

URI = "gcs://_ray_pkg_0123456789abcdef.zip"


async def test_a_package_arrives(serve_gcs: ServeGcs, make_context: MakeContext, target: Path) -> None:
    """Under the whole URI as key, larger than gRPC's own limit; the URI is its validator."""
    store = serve_gcs()
    store.values[URI.encode()] = b"1" * (9 << 20)
    context = make_context(gcs=GcsEndpoint(store.address))
    done = await fetch(URI, target, context, field=FIELD)
    assert content(target) == store.values[URI.encode()]
    assert mode(target) == 0o600
    assert (done.bytes, done.validator) == (9 << 20, URI)
    assert await validator(URI, context, field=FIELD) == URI


async def test_a_missing_package_is_told_with_stocks_remedy(
    serve_gcs: ServeGcs, make_context: MakeContext, target: Path
) -> None:
    """It was probably deleted early, and trying again does not help."""
    context = make_context(gcs=GcsEndpoint(serve_gcs().address))
    with pytest.raises(DownloadError, match="deleted early") as caught:
        await fetch(URI, target, context, field=FIELD)
    assert "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S" in caught.value.remedy
    assert caught.value.retry is Retry.PERMANENT
    assert names(target.parent) == []


async def test_the_token_is_sent_and_a_wrong_one_is_no_secret_told(
    serve_gcs: ServeGcs, make_context: MakeContext, target: Path
) -> None:
    """As `authorization: Bearer`; a cluster that refuses it says so, the message does not hold it."""
    store = serve_gcs()
    store.values[URI.encode()] = b"1"
    store.token = "right"
    await fetch(URI, target, make_context(gcs=GcsEndpoint(store.address, "right")), field=FIELD)
    remove(target)
    for token in ("CANARY", None):
        endpoint = GcsEndpoint(store.address, token)
        with pytest.raises(DownloadError, match="does not let") as caught:
            await fetch(URI, target, make_context(gcs=endpoint), field=FIELD)
        assert caught.value.retry is Retry.PERMANENT
        assert "CANARY" not in f"{caught.value} {endpoint!r}"


async def test_tls_proves_both_sides(
    serve_gcs: ServeGcs, make_context: MakeContext, target: Path, authority: Authority
) -> None:
    """With certificate, key and authority it works; without them it does not."""
    store = serve_gcs(authority)
    store.values[URI.encode()] = b"1"
    pem = str(authority.certificate)
    endpoint = GcsEndpoint(store.address, server_cert=pem, server_key=pem, ca_cert=str(authority.ca))
    await fetch(URI, target, make_context(gcs=endpoint), field=FIELD)
    assert content(target) == b"1"
    remove(target)
    with pytest.raises(NetworkError):
        await fetch(URI, target, make_context(gcs=GcsEndpoint(store.address)), field=FIELD)
    missing = dataclasses.replace(endpoint, server_key="/nonexistent/key.pem")
    with pytest.raises(DownloadError, match="certificate") as caught:
        await fetch(URI, target, make_context(gcs=missing), field=FIELD)
    assert "RAY_TLS_SERVER_KEY" in caught.value.remedy


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, NetworkError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, NetworkError),
        (grpc.StatusCode.UNIMPLEMENTED, DownloadError),
    ],
)
async def test_failures_of_the_call_are_permanent_or_passing(
    serve_gcs: ServeGcs,
    make_context: MakeContext,
    target: Path,
    code: grpc.StatusCode,
    error: type[DownloadError],
) -> None:
    """By their code, whose name is told."""
    store = serve_gcs()
    store.failure = code
    with pytest.raises(DownloadError, match=code.name) as caught:
        await fetch(URI, target, make_context(gcs=GcsEndpoint(store.address)), field=FIELD)
    assert type(caught.value) is error
    assert names(target.parent) == []


async def test_a_gcs_that_is_not_there_may_come_back(make_context: MakeContext, target: Path) -> None:
    """A refused connection is passing; no cluster at all is not."""
    with pytest.raises(NetworkError):
        await fetch(URI, target, make_context(gcs=GcsEndpoint("127.0.0.1:9")), field=FIELD)
    with pytest.raises(DownloadError, match="no cluster") as caught:
        await fetch(URI, target, make_context(), field=FIELD)
    assert caught.value.retry is Retry.PERMANENT


async def test_the_daemons_proxy_is_not_used(
    serve_gcs: ServeGcs,
    make_context: MakeContext,
    target: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in Ray: the GCS is in the cluster."""
    proxy = serve(lambda request: request.answer(status=500))
    monkeypatch.setenv("http_proxy", proxy.url)
    store = serve_gcs()
    store.values[URI.encode()] = b"1"
    await fetch(URI, target, make_context(gcs=GcsEndpoint(store.address)), field=FIELD)
    assert proxy.seen == []


async def test_limit_and_digest_hold_here_too(
    serve_gcs: ServeGcs, make_context: MakeContext, target: Path
) -> None:
    """And nothing is left of what they refuse."""
    store = serve_gcs()
    store.values[URI.encode()] = b"12345"
    endpoint = GcsEndpoint(store.address)
    with pytest.raises(NeverFitsError):
        await fetch(URI, target, make_context(gcs=endpoint, max_bytes=4), field=FIELD)
    with pytest.raises(DownloadError, match="sha256"):
        await fetch(f"{URI}#sha256={'0' * 64}", target, make_context(gcs=endpoint), field=FIELD)
    assert names(target.parent) == []
