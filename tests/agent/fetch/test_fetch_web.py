"""https:// and http:// against real servers."""

import asyncio
import base64
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fetch_servers import FIELD, Authority, MakeContext, Request, Serve, content, mode, names, remove, write
from processes import marked

from ray_envd.agent.errors import DownloadError, NetworkError, NeverFitsError, Retry
from ray_envd.agent.fetch import fetch, validator
from ray_envd.agent.room import OutgrownError

BODY = b"package " * 100_000


async def test_a_file_arrives_with_its_digest_size_and_validator(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """And progress ends at the whole."""
    web = serve(lambda request: request.answer(BODY, ETag='"v1"'))
    seen: list[tuple[int, int]] = []
    done = await fetch(
        f"{web.url}/code.zip", target, make_context(), field=FIELD, report=lambda *step: seen.append(step)
    )
    assert content(target) == BODY
    assert (done.sha256, done.bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert done.validator == 'etag "v1"'
    assert seen[-1] == (len(BODY), len(BODY))
    assert mode(target) == 0o600


async def test_nothing_is_written_before_there_is_room(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """The size is told first; once it is granted the file comes by the same connection."""
    web = serve(lambda request: request.answer(BODY))
    seen: list[tuple[int, list[str]]] = []

    async def secure(size: int) -> None:
        seen.append((size, await asyncio.to_thread(names, target.parent)))

    await fetch(f"{web.url}/code.zip", target, make_context(), field=FIELD, secure=secure)
    assert seen == [(len(BODY), [])]
    assert content(target) == BODY
    assert [each.method for each in web.seen] == ["GET"]


async def test_what_gets_no_room_is_not_written(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """The refusal is passed on as it is, and the program has ended."""
    web = serve(lambda request: request.answer(BODY))

    async def refuse(_size: int) -> None:
        raise OutgrownError(5)

    with pytest.raises(OutgrownError):
        await fetch(f"{web.url}/code.zip", target, make_context(), field=FIELD, secure=refuse)
    assert names(target.parent) == []
    assert marked(f'RAY_ENVD_FETCH={{"uri": "{web.url}') == []


async def test_the_validator_costs_no_download(serve: Serve, make_context: MakeContext) -> None:
    """It is asked for by HEAD, and equals the one of the download."""
    web = serve(lambda request: request.answer(BODY, Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT"))
    token = await validator(f"{web.url}/code.zip", make_context(), field=FIELD)
    assert token == f"modified Wed, 21 Oct 2015 07:28:00 GMT {len(BODY)}"
    assert [seen.method for seen in web.seen] == ["HEAD"]


async def test_a_server_that_refuses_head_is_asked_by_get(serve: Serve, make_context: MakeContext) -> None:
    """Signed addresses are good for one method only."""
    web = serve(lambda r: r.answer(b"", 403) if r.command == "HEAD" else r.answer(BODY, ETag='"v1"'))
    assert await validator(f"{web.url}/code.zip?signature=x", make_context(), field=FIELD) == 'etag "v1"'


async def test_a_source_without_any_token_has_no_validator(serve: Serve, make_context: MakeContext) -> None:
    """None, so that nobody takes an old package for a fresh one."""
    web = serve(lambda request: request.answer(BODY))
    assert await validator(f"{web.url}/code.zip", make_context(), field=FIELD) is None


async def test_a_chunked_answer_is_read_to_its_end(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """Code hosts send archives without a length."""

    def chunked(request: Request) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")

    await fetch(f"{serve(chunked).url}/code.zip", target, make_context(), field=FIELD)
    assert content(target) == b"firstsecond"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, DownloadError),
        (410, DownloadError),
        (401, DownloadError),
        (403, DownloadError),
        (400, DownloadError),
        (408, NetworkError),
        (429, NetworkError),
        (500, NetworkError),
        (502, NetworkError),
        (503, NetworkError),
    ],
)
async def test_an_error_of_the_server_is_permanent_or_passing(
    serve: Serve, make_context: MakeContext, target: Path, status: int, error: type[DownloadError]
) -> None:
    """The message tells the status, not what the server wrote."""
    web = serve(lambda request: request.answer(b"CANARY", status))
    for work in (
        fetch(f"{web.url}/code.zip", target, make_context(), field=FIELD),
        validator(f"{web.url}/code.zip", make_context(), field=FIELD),
    ):
        with pytest.raises(DownloadError) as caught:
            await work
        assert type(caught.value) is error
        assert str(status) in caught.value.cause
        assert "CANARY" not in str(caught.value)
        assert caught.value.field == FIELD
    assert names(target.parent) == []


def _truncated(request: Request) -> None:
    request.answer(BODY, length=len(BODY) + 1)


def _cut_chunk(request: Request) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"ff\r\nshort")


def _reset(request: Request) -> None:
    request.answer(BODY, length=10 * len(BODY))
    request.wfile.flush()
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    request.connection.close()


def _silent(request: Request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def _nonsense(request: Request) -> None:
    request.wfile.write(b"nonsense\r\n\r\n")


@pytest.mark.parametrize("handler", [_truncated, _cut_chunk, _reset, _silent, _nonsense])
async def test_a_broken_transfer_may_be_tried_again_and_leaves_no_file(
    serve: Serve, make_context: MakeContext, target: Path, handler: Callable[[Request], None]
) -> None:
    """Cut off, reset, or no HTTP at all."""
    with pytest.raises(NetworkError) as caught:
        await fetch(f"{serve(handler).url}/code.zip", target, make_context(), field=FIELD)
    assert caught.value.retry is Retry.TRANSIENT
    assert names(target.parent) == []


async def test_a_refused_connection_and_an_unknown_host_may_be_tried_again(
    make_context: MakeContext, target: Path
) -> None:
    """The network's failures, told by their names."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(NetworkError, match="refused"):
            await fetch(f"http://127.0.0.1:{port}/code.zip", target, make_context(), field=FIELD)
    with pytest.raises(NetworkError):
        await fetch("http://no-such-host.invalid/code.zip", target, make_context(), field=FIELD)


async def test_user_and_password_go_as_basic_authentication(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """Unquoted, and before the bearer token, as in stock."""
    web = serve(lambda request: request.answer(BODY))
    uri = f"http://us%40er:pa%3Ass@{web.host}/code.zip"
    await fetch(uri, target, make_context(RAY_RUNTIME_ENV_BEARER_TOKEN="token"), field=FIELD)
    expected = "Basic " + base64.b64encode(b"us@er:pa:ss").decode()
    assert web.seen[0].headers["Authorization"] == expected
    assert web.seen[0].headers["Host"] == web.host


async def test_the_headers_are_those_of_stock(serve: Serve, make_context: MakeContext, target: Path) -> None:
    """User agent and bearer token, each with its variable."""
    web = serve(lambda request: request.answer(BODY))
    await fetch(f"{web.url}/code.zip", target, make_context(), field=FIELD)
    assert web.seen[0].headers["User-Agent"] == "ray-runtime-env-curl/1.0"
    assert web.seen[0].headers["Authorization"] is None
    remove(target)
    context = make_context(RAY_RUNTIME_ENV_BEARER_TOKEN="token", RAY_RUNTIME_ENV_HTTP_USER_AGENT="mine/2")
    await fetch(f"{web.url}/code.zip", target, context, field=FIELD)
    assert web.seen[1].headers["User-Agent"] == "mine/2"
    assert web.seen[1].headers["Authorization"] == "Bearer token"


async def test_netrc_is_read(serve: Serve, make_context: MakeContext, target: Path, tmp_path: Path) -> None:
    """As requests does for stock."""
    web = serve(lambda request: request.answer(BODY))
    netrc = write(tmp_path / "netrc", b"machine 127.0.0.1 login user password secret\n")
    await fetch(f"{web.url}/code.zip", target, make_context(NETRC=str(netrc)), field=FIELD)
    assert web.seen[0].headers["Authorization"] == "Basic " + base64.b64encode(b"user:secret").decode()


async def test_redirects_are_followed_and_credentials_stay_behind(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """To the same server they go along, to another they do not."""
    other = serve(lambda request: request.answer(BODY, ETag='"other"'))

    def redirect(request: Request) -> None:
        where = "/here.zip" if request.path == "/code.zip" else f"{other.url}/there.zip"
        request.answer(status=302, Location=where)

    web = serve(redirect)
    context = make_context(RAY_RUNTIME_ENV_BEARER_TOKEN="CANARY")
    await fetch(f"{web.url}/code.zip", target, context, field=FIELD)
    assert content(target) == BODY
    assert [(seen.path, seen.headers["Authorization"]) for seen in web.seen] == [
        ("/code.zip", "Bearer CANARY"),
        ("/here.zip", "Bearer CANARY"),
    ]
    assert [seen.headers["Authorization"] for seen in other.seen] == [None]
    assert await validator(f"{web.url}/code.zip", context, field=FIELD) == 'etag "other"'
    assert other.seen[-1].method == "HEAD"


@pytest.mark.parametrize("where", ["/code.zip", "file:///etc/hostname", "ftp://127.0.0.1/x"])
async def test_a_redirect_in_a_circle_or_off_the_web_is_refused(
    serve: Serve, make_context: MakeContext, target: Path, where: str
) -> None:
    """A server must not choose a file of this node."""
    web = serve(lambda request: request.answer(status=302, Location=where))
    with pytest.raises(DownloadError):
        await fetch(f"{web.url}/code.zip", target, make_context(), field=FIELD)
    assert names(target.parent) == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_private_authority_is_named_by_the_raylets_environment(
    serve: Serve,
    make_context: MakeContext,
    target: Path,
    authority: Authority,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any of the usual variables will do; the daemon's own do not count."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority.ca))
    web = serve(lambda request: request.answer(BODY), authority.certificate)
    with pytest.raises(DownloadError, match="not trusted") as caught:
        await fetch(f"{web.url}/code.zip", target, make_context(), field=FIELD)
    assert "REQUESTS_CA_BUNDLE" in caught.value.remedy
    assert caught.value.retry is Retry.PERMANENT
    await fetch(f"{web.url}/code.zip", target, make_context(**{variable: str(authority.ca)}), field=FIELD)
    assert content(target) == BODY


async def test_proxies_are_the_raylets_and_not_the_daemons(
    serve: Serve, make_context: MakeContext, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the daemon's own environment is never asked."""
    wrong = serve(lambda request: request.answer(b"wrong"))
    proxy = serve(lambda request: request.answer(BODY))
    monkeypatch.setenv("http_proxy", wrong.url)
    await fetch("http://host.invalid/code.zip", target, make_context(http_proxy=proxy.url), field=FIELD)
    assert content(target) == BODY
    assert proxy.seen[0].path == "http://host.invalid/code.zip"
    assert wrong.seen == []


async def test_a_digest_is_checked(serve: Serve, make_context: MakeContext, target: Path) -> None:
    """The right one passes, and is the validator; a wrong one leaves no file."""
    web = serve(lambda request: request.answer(BODY))
    right = hashlib.sha256(BODY).hexdigest()
    uri = f"{web.url}/code.zip#sha256={right.upper()}"
    await fetch(uri, target, make_context(), field=FIELD)
    assert await validator(uri, make_context(), field=FIELD) == f"sha256 {right}"
    remove(target)
    with pytest.raises(DownloadError, match=right) as caught:
        await fetch(f"{web.url}/code.zip#sha256={'0' * 64}", target, make_context(), field=FIELD)
    assert caught.value.retry is Retry.PERMANENT
    assert names(target.parent) == []


async def test_what_is_too_large_is_refused(serve: Serve, make_context: MakeContext, target: Path) -> None:
    """Before the transfer where the length is told, else as soon as it shows."""

    def endless(request: Request) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(BODY)

    for handler in (lambda request: request.answer(BODY), endless):
        uri, context = f"{serve(handler).url}/code.zip", make_context(max_bytes=len(BODY) - 1)
        with pytest.raises(NeverFitsError):
            await fetch(uri, target, context, field=FIELD)
        assert names(target.parent) == []


async def test_spaces_and_letters_of_any_language_in_an_address_are_quoted(
    serve: Serve, make_context: MakeContext, target: Path
) -> None:
    """As requests does; what is quoted already stays."""
    web = serve(lambda request: request.answer(BODY))
    await fetch(f"{web.url}/my%20own cöde.zip?a=b c", target, make_context(), field=FIELD)
    assert web.seen[0].path == "/my%20own%20c%C3%B6de.zip?a=b%20c"
