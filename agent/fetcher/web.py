"""``https://`` and ``http://``, with the headers, proxies and certificates that stock Ray uses.

Stock downloads with requests (by way of smart_open). The same variables hold here:
``RAY_RUNTIME_ENV_HTTP_USER_AGENT``, ``RAY_RUNTIME_ENV_BEARER_TOKEN``, ``REQUESTS_CA_BUNDLE``,
``CURL_CA_BUNDLE``, the ``*_PROXY`` family and ~/.netrc (``NETRC``); besides, ``SSL_CERT_FILE`` and
``SSL_CERT_DIR``.
"""

import base64
import http.client
import netrc
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ray_envd.agent.fetcher.sink import CHUNK, Failure, Source

_TIMEOUT = 60  # seconds without a byte; stock's
_USER_AGENT = "ray-runtime-env-curl/1.0"  # stock's
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # in an address as people write it; what else is special gets quoted
_DENIED = frozenset({401, 403, 407})
_GONE = frozenset({404, 410})
_PASSING = frozenset({408, 425, 429})
_SERVER_ERROR = 500


@contextmanager
def opened(uri: str, environment: Mapping[str, str], *, head: bool) -> Iterator[Source]:
    """Opens a web address; with ``head``, only for its validator.

    Raises:
        Failure: any answer but 2xx, and whatever happens to the connection.
    """
    with _translated(), _answer(uri, environment, head=head) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdecimal() and not answer.chunked else None
        yield Source(_validator(answer.headers, length), total, _chunks(answer))


def _answer(uri: str, environment: Mapping[str, str], *, head: bool) -> http.client.HTTPResponse:
    if head:
        try:
            return _ask(uri, environment, "HEAD")
        except urllib.error.HTTPError as error:
            # Signed addresses are often good for GET alone, and some servers know no HEAD.
            error.close()
    return _ask(uri, environment, "GET")


def _ask(uri: str, environment: Mapping[str, str], method: str) -> http.client.HTTPResponse:
    address, authorization = _split_credentials(uri, environment)
    request = urllib.request.Request(address, method=method)  # noqa: S310 - the caller has checked the scheme
    request.add_header("User-Agent", environment.get("RAY_RUNTIME_ENV_HTTP_USER_AGENT", _USER_AGENT))
    request.add_header("Accept", "*/*")
    if authorization:
        request.add_header("Authorization", authorization)
    opener = urllib.request.OpenerDirector()  # build_opener() would add file:, ftp: and data:
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_tls(environment)),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirect(),
    ):
        opener.add_handler(handler)
    answer: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT)
    return answer


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects; credentials go nowhere but to the server they were meant for."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)
        if followed is not None:
            followed.method = req.get_method()
            if not _same_server(req.full_url, newurl):
                followed.remove_header("Authorization")
        return followed


def _same_server(old: str, new: str) -> bool:
    """Whether credentials for the one are for the other: the same origin, or the same host turning to TLS."""
    one, other = urlsplit(old), urlsplit(new)
    if one.hostname != other.hostname:
        return False
    return (one.scheme, one.port) == (other.scheme, other.port) or (
        (one.scheme, one.port or 80, other.scheme, other.port or 443) == ("http", 80, "https", 443)
    )


def _split_credentials(uri: str, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """The address without its user part, and the Authorization header; as in stock the user part wins."""
    parts = urlsplit(uri)
    userinfo, _, host = parts.netloc.rpartition("@")
    path, query = (quote(part, safe=_KEPT) for part in (parts.path, parts.query))
    address = urlunsplit((parts.scheme, host, path, query, ""))
    if userinfo:
        user, _, password = userinfo.partition(":")
        return address, _basic(unquote(user), unquote(password))
    token = environment.get("RAY_RUNTIME_ENV_BEARER_TOKEN")
    if token:
        return address, f"Bearer {token}"
    return address, _from_netrc(parts.hostname or "", environment)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _from_netrc(host: str, environment: Mapping[str, str]) -> str | None:
    path = environment.get("NETRC") or os.path.expanduser("~/.netrc")  # noqa: PTH111 - a path that may not exist
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):  # requests ignores it too
        return None
    return _basic(found[0], found[2] or "") if found else None


def _tls(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Trusts the bundle that is named; else what OpenSSL does, which reads SSL_CERT_FILE and SSL_CERT_DIR."""
    bundle = environment.get("REQUESTS_CA_BUNDLE") or environment.get("CURL_CA_BUNDLE")
    if not bundle:
        return ssl.create_default_context()
    try:
        if os.path.isdir(bundle):  # noqa: PTH112 - a string from the environment
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise Failure(
            "permanent",
            f"the certificates of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE cannot be read: {error}",
            "correct the variable in the environment that Ray is started with",
        ) from error


def _validator(headers: http.client.HTTPMessage, length: str | None) -> str | None:
    if etag := headers.get("ETag"):
        return f"etag {etag}"
    if modified := headers.get("Last-Modified"):
        return f"modified {modified} {length}"
    return None


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := answer.read(CHUNK):
        yield chunk


def _refused(status: int) -> Failure:
    cause = f"the server answers {status} {http.client.responses.get(status, '')}".rstrip()
    if status in _DENIED:
        remedy = (
            "give user and password in the URI, or set RAY_RUNTIME_ENV_BEARER_TOKEN in the environment "
            "that Ray is started with"
        )
        return Failure("permanent", cause, remedy)
    if status in _GONE:
        return Failure("permanent", cause, "check the URI")
    return Failure("network" if status in _PASSING or status >= _SERVER_ERROR else "permanent", cause)


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what the standard library raises into Failure, without any address in the text."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error.code) from error
    except urllib.error.URLError as error:
        reason = error.reason
        raise _failure(reason if isinstance(reason, Exception) else error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(error) from error


def _failure(error: Exception) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(
            "permanent",
            f"the server's certificate is not trusted: {error.verify_message}",
            "name its authority's certificate in REQUESTS_CA_BUNDLE or SSL_CERT_FILE in the environment "
            "that Ray is started with",
        )
    if isinstance(error, http.client.InvalidURL):
        return Failure("permanent", "the URI is malformed", "quote its special characters")
    if isinstance(error, http.client.IncompleteRead):
        return Failure("network", "the transfer ended early")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return Failure("network", f"the connection failed: {reason}")
