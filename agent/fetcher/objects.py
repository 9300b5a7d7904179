"""``s3://``, ``gs://``, ``azure://`` and ``abfss://``, by obstore.

obstore reads the variables of each provider from the environment of its process, which is the
raylet's (see the package). What stock's libraries know beyond that is added here: the shared files of
AWS, an emulator's address, and anonymous access where no credentials are to be found.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from ray_envd.agent.fetcher import credentials
from ray_envd.agent.fetcher.sink import CHUNK, Failure, Source

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

Store = S3Store | GCSStore | AzureStore

_RETRY: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=60)}
_ABFSS_HOST = ".dfs.core.windows.net"
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_ELSEWHERE = "redirect without LOCATION"
_BAD_REQUEST = 400
_SERVER_ERROR = 500
_PASSING = frozenset({408, 425, 429})
_CONNECTION = (
    ("dns error", "the host's name cannot be resolved"),
    ("ConnectionRefused", "the connection was refused"),
    ("TimedOut", "the connection timed out"),
    ("Connect", "the connection failed"),
    ("HTTP error", "the connection broke"),
)


@contextmanager
def opened(uri: str, environment: Mapping[str, str], *, head: bool) -> Iterator[Source]:
    """Opens an object; with ``head``, only for its validator.

    Raises:
        Failure: it cannot be had, or the configuration is wrong.
    """
    with _translated(uri):
        try:
            source = _source(uri, environment, head=head)
        except GenericError as error:
            region = _other_region(uri, environment, str(error))
            if region is None:
                raise
            source = _source(uri, {**environment, "AWS_REGION": region}, head=head)
        yield source


def _source(uri: str, environment: Mapping[str, str], *, head: bool) -> Source:
    store, key = _STORES[urlsplit(uri).scheme](uri, environment)
    if head:
        meta = obstore.head(store, key)
        return Source(_validator(meta), meta["size"], iter(()))
    result = obstore.get(store, key)
    return Source(_validator(result.meta), result.meta["size"], _chunks(result))


def _chunks(result: "GetResult") -> Iterator[memoryview]:
    try:
        for chunk in result.stream(CHUNK):
            yield memoryview(chunk)
    except BaseError as error:  # obstore has asked for the rest by itself already
        raise Failure("network", "the transfer broke off") from error


def _validator(meta: "ObjectMeta") -> str:
    etag = meta["e_tag"]
    return f"etag {etag}" if etag else f"modified {meta['last_modified']} {meta['size']}"


def split(uri: str) -> tuple[str, str]:
    """Host and key of an object's URI; the key is everything after the host, also ``?`` and ``#``."""
    host, _, key = uri.partition("://")[2].partition("/")
    return host, key


def _s3(uri: str, environment: Mapping[str, str]) -> tuple[Store, str]:
    bucket, key = split(uri)
    settings = credentials.aws(environment)
    plain = settings.get("endpoint", "").startswith("http://")
    options = _client(environment, "AWS_CA_BUNDLE", plain=plain)
    return S3Store(bucket, config=settings, client_options=options, retry_config=_RETRY), key


def _gs(uri: str, environment: Mapping[str, str]) -> tuple[Store, str]:
    bucket, key = split(uri)
    settings = credentials.google(environment)
    plain = str(settings.get("base_url", "")).startswith("http://")
    options = _client(environment, plain=plain)
    return GCSStore(bucket, config=settings, client_options=options, retry_config=_RETRY), key


def _azure(uri: str, environment: Mapping[str, str]) -> tuple[Store, str]:
    container, key = split(uri)
    account = environment.get("AZURE_STORAGE_ACCOUNT") or environment.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise Failure(
            "permanent",
            "AZURE_STORAGE_ACCOUNT is not set",
            "set it in the environment that Ray is started with",
        )
    return _azure_store(container, account, environment), key


def _abfss(uri: str, environment: Mapping[str, str]) -> tuple[Store, str]:
    host, key = split(uri)
    container, _, account_host = host.partition("@")
    return _azure_store(container, account_host.removesuffix(_ABFSS_HOST), environment), key


def _azure_store(container: str, account: str, environment: Mapping[str, str]) -> AzureStore:
    settings = credentials.azure(environment)
    settings["account_name"] = account
    endpoint = environment.get("AZURE_STORAGE_ENDPOINT") or environment.get("AZURE_ENDPOINT") or ""
    options = _client(environment, plain=endpoint.startswith("http://"))
    return AzureStore(container, config=settings, client_options=options, retry_config=_RETRY)


_STORES = {"s3": _s3, "gs": _gs, "azure": _azure, "abfss": _abfss}


def _client(environment: Mapping[str, str], *more: str, plain: bool) -> "ClientConfig":
    options: ClientConfig = {
        "allow_http": plain,
        "connect_timeout": "10s",
        "read_timeout": "60s",
        "timeout": "1day",  # of the whole transfer; obstore's own 30 s end every large one
    }
    names = (*more, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    bundle = next((environment[name] for name in names if environment.get(name)), None)
    if bundle and os.path.isfile(bundle):  # noqa: PTH113 - a string from the environment
        with open(bundle, "rb") as file:
            options["root_certificate"] = file.read()
    return options


def _other_region(uri: str, environment: Mapping[str, str], text: str) -> str | None:
    """The region of a bucket that refused a request for another one; boto3 turns to it too."""
    if not uri.startswith("s3:") or not (_ELSEWHERE in text or _status(text) == _BAD_REQUEST):
        return None
    settings = credentials.aws(environment)
    region = credentials.bucket_region(split(uri)[0], settings.get("endpoint"))
    return None if region == settings.get("region", "us-east-1") else region


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turns obstore's errors into Failure; its texts hold addresses and answers, so they stay here."""
    try:
        yield
    except FileNotFoundError as error:
        raise Failure("permanent", "there is no such object or bucket", "check the URI") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise Failure("permanent", "access is denied", _REMEDIES[urlsplit(uri).scheme]) from error
    except (BaseError, ValueError, OSError) as error:
        raise _failure(str(error)) from error


def _status(text: str) -> int:
    match = _STATUS.search(text)
    return int(match[1]) if match else 0


def _failure(text: str) -> Failure:
    status = _status(text)
    if status:
        passing = status >= _SERVER_ERROR or status in _PASSING
        return Failure("network" if passing else "permanent", f"the store answers {status}")
    if _ELSEWHERE in text:
        remedy = "set AWS_REGION to the bucket's in the environment that Ray is started with"
        return Failure("permanent", "the bucket is in another region", remedy)
    if "InvalidCertificate" in text:
        remedy = "name its authority's certificate in SSL_CERT_FILE (S3: AWS_CA_BUNDLE) in the environment "
        return Failure(
            "permanent", "the store's certificate is not trusted", remedy + "that Ray is started with"
        )
    for mark, reason in _CONNECTION:
        if mark in text:
            return Failure("network", reason)
    # What is left are settings and credential files; obstore's first line says which.
    line = next((line for line in text.splitlines() if line.strip()), "unknown")
    return Failure("permanent", re.sub(r"\S+://\S+", "…", line)[:300])


_AZURE_REMEDY = (
    "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or give the node a managed identity"
)
_REMEDIES = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile that holds keys, or a role) in the "
    "environment that Ray is started with; profiles of AWS SSO and credential_process are not read",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS in the environment that Ray is started with",
    "azure": _AZURE_REMEDY,
    "abfss": _AZURE_REMEDY,
}
