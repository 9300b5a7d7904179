"""Credentials reach the server and nobody else: not messages, not arguments, not `repr`."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fetch_servers import FIELD, MakeContext, Request, Serve, ServeGcs

from ray_envd.agent.errors import EnvError
from ray_envd.agent.fetch import GcsEndpoint, fetch, parse_uri, validator

CANARY = "C4n4ry/S3cret"
QUOTED = "C4n4ry%2FS3cret"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_SESSION_TOKEN": CANARY,
    "AZURE_STORAGE_ACCOUNT": "account",
    "AZURE_STORAGE_SAS_TOKEN": f"sig={QUOTED}",
    "GOOGLE_BEARER_TOKEN": CANARY,
    "RAY_RUNTIME_ENV_BEARER_TOKEN": CANARY,
}
URIS = [
    "http://user:{secret}@{host}/code.zip",
    "http://{secret}@{host}/code.zip",
    "http://{host}/code.zip?token={secret}",
    "http://{host}/code.zip?anything={secret}&b=c",
    "http://{host}/code.zip?X-Amz-Signature={secret}#sha256=" + "0" * 64,
    "http://{host}/code.zip",
    "s3://bucket/code.zip",
    "gs://bucket/code.zip",
    "azure://container/code.zip",
    "abfss://container@account.dfs.core.windows.net/code.zip",
    "gcs://_ray_pkg_a.zip",
    "file:///nonexistent/code.zip?token={secret}",
    "s3://AKIDTEST:{secret}@bucket/code.zip",
    "ftp://user:{secret}@{host}/code.zip",
    "http://user:{secret}@{host}/code.exe?token={secret}",
    "user:{secret}@{host}/code.zip?token={secret}",
]


def _denies(request: Request) -> None:
    echo = f"{request.path} {request.headers}".encode()
    request.answer(echo, 403)


def _fails(request: Request) -> None:
    echo = f"{request.path} {request.headers}".encode()
    request.answer(echo, 500)


def _redirects(request: Request) -> None:
    request.answer(status=302, Location=f"http://user:{QUOTED}@127.0.0.1:9/x?sig={QUOTED}")


def _hangs_up(request: Request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


CASES = [
    (uri, handler)
    for uri in URIS
    for handler in (_denies, _fails, _redirects, _hangs_up)
    # The last two say nothing new of stores, and a file or an invalid URI asks no server at all.
    if uri.startswith("http")
    or (uri.startswith(("s3", "gs", "az", "ab")) and handler in {_denies, _fails})
    or handler is _denies
]


@pytest.mark.parametrize(("uri", "handler"), CASES)
async def test_no_message_holds_a_credential(
    serve: Serve, make_context: MakeContext, target: Path, uri: str, handler: Callable[[Request], None]
) -> None:
    """Whatever the server does with it, and whether the URI is valid or not."""
    web = serve(handler)
    addresses = dict.fromkeys(("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"), web.url)
    context = make_context(gcs=GcsEndpoint("127.0.0.1:9", CANARY), **ENVIRONMENT, **addresses)
    whole = uri.format(secret=QUOTED, host=web.host)
    told = []
    for work in (fetch(whole, target, context, field=FIELD), validator(whole, context, field=FIELD)):
        try:
            told.append(repr(await work))
        except EnvError as error:
            told.append(f"{error} {error!r} {error.output} {error.remedy}")
    assert any("runtime_env" in text for text in told)
    for text in (*told, repr(context)):
        assert CANARY not in text
        assert QUOTED not in text


async def test_no_argument_of_a_process_holds_a_credential(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """Every user of the machine can read arguments."""
    asked, release = threading.Event(), threading.Event()

    def waiting(request: Request) -> None:
        asked.set()
        release.wait(20)
        request.answer(b"1")

    web = serve(waiting)
    uri = f"http://user:{QUOTED}@{web.host}/code.zip?token={QUOTED}"
    task = asyncio.create_task(fetch(uri, target, make_context(**ENVIRONMENT), field=FIELD))
    try:
        assert await asyncio.to_thread(asked.wait, 20)
        arguments = await asyncio.to_thread(_all_arguments)
    finally:
        release.set()
    await task
    assert b"ray_envd.agent.fetcher" in arguments
    assert b"C4n4ry" not in arguments


def _all_arguments() -> bytes:
    found = b""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += entry.read_bytes()
        except OSError:
            continue
    return found


async def test_a_program_that_dies_is_told_with_its_last_words(
    make_context: MakeContext, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without secrets, and as something that may be otherwise next time."""
    monkeypatch.setattr("sys.executable", "/bin/sh")  # has no module to run: it ends with a complaint
    with pytest.raises(EnvError, match="exit code") as caught:
        await fetch(f"http://user:{QUOTED}@127.0.0.1:9/a.zip", target, make_context(), field=FIELD)
    assert caught.value.output
    assert QUOTED not in str(caught.value)


async def test_the_gcs_token_is_in_no_representation(serve_gcs: ServeGcs) -> None:
    """Endpoints and URIs are logged by their `repr`."""
    assert CANARY not in repr(GcsEndpoint(serve_gcs().address, CANARY))
    assert QUOTED not in repr(parse_uri(f"https://u:{QUOTED}@host/a.zip?sig={QUOTED}", FIELD))
