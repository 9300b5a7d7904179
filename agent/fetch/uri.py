"""What a package's URI must look like, and what Ray calls the folder it is unpacked into.

The rules are those of ``ray/_common/runtime_env_uri.py`` and ``runtime_env_package.py`` in Ray 2.60. Our own
is the fragment ``#sha256=<64 hex digits>``: what comes must have this digest. (Ray's driver lets it pass.)
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.redaction import secrets_in_urls

GCS = "gcs"
LOCAL = "local"
_REMOTE = ("http", "https", "s3", "gs", "azure", "abfss", "file")
_BUCKETS = ("s3", "gs", "azure", "abfss")
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")
_EXTENSIONS = {"working_dir": _ARCHIVES, "py_modules": (*_ARCHIVES, ".whl")}
_COMPOUND = (".tar.gz", ".tar.bz2", ".tar.xz")
_ABFSS_HOST = ".dfs.core.windows.net"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FRAGMENT = re.compile(r"#sha256=([^#]*)$")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,199}")  # leaves room for suffixes in NAME_MAX


@dataclass(frozen=True)
class Uri:
    """A valid URI of a package.

    Attributes:
        text: to be fetched; without our fragment.
        scheme: one that is fetched (``local`` is not).
        folder: what Ray calls the folder of this package; a single path component.
        sha256: what must come, lower-case hex; None where it does not matter.
        shown: for messages: no credentials, no query.
        secrets: what must not appear in any text.
    """

    text: str = field(repr=False)
    scheme: str
    folder: str
    sha256: str | None
    shown: str
    secrets: frozenset[str] = field(repr=False)


def parse_uri(uri: str, field: str) -> Uri:
    """Checks the URI of a package.

    Args:
        uri: as it stands in the runtime env.
        field: ``working_dir`` or ``py_modules``; for another field every extension passes.

    Raises:
        InvalidSpecError: what is wrong with it.
    """
    parts = _split(uri, field)
    if parts.scheme == LOCAL:
        _refuse(uri, field, "names a folder of the node, which is used in place and never fetched")
    if parts.scheme not in {GCS, *_REMOTE}:
        known = ", ".join((GCS, *_REMOTE, LOCAL))
        _refuse(uri, field, f"has the unknown protocol {parts.scheme!r}", f"use one of {known}")
    text, sha256 = _expected(uri, field)
    raw = parts.netloc if parts.scheme == GCS else parts.netloc + parts.path
    allowed = _EXTENSIONS.get(field)
    if allowed is not None and not raw.endswith(allowed):
        _refuse(uri, field, "has no supported extension", f"it must end in one of {', '.join(allowed)}")
    _check_address(uri, field, parts)
    folder = _without_extension(_package(uri, parts, raw))
    if not _NAME.fullmatch(folder):
        _refuse(uri, field, "gives no usable name for a folder")
    return Uri(text, parts.scheme, folder, sha256, show(uri), frozenset(_secrets(uri, parts)))


def package_name(uri: str, field: str) -> str:
    """The folder that Ray uses for this URI under ``working_dir_files`` or ``py_modules_files``.

    As in Ray, two wheels of the same file name from different places have the same folder.

    Raises:
        InvalidSpecError: the URI is not valid.
    """
    return parse_uri(uri, field).folder


def local_directory(uri: str, field: str) -> Path | None:
    """The folder of a ``local://`` URI; None for every other URI. It need not exist.

    Raises:
        InvalidSpecError: the path is not absolute, or names an archive.
    """
    prefix = f"{LOCAL}://"
    if not uri.lower().startswith(prefix):
        return None
    path = uri[len(prefix) :]
    if not path.startswith("/") or "\0" in path:
        _refuse(uri, field, "has no absolute path", "write local:///path/in/image")
    if path.endswith((*_ARCHIVES, ".whl")):
        _refuse(uri, field, "names an archive", "name a folder, or use file:// for an archive")
    return Path(path)


def show(uri: str) -> str:
    """The URI for messages: without user, password, query and fragment."""
    head, mark, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    if head.lower() != "abfss":  # what stands before the @ is the container there
        host = host.rpartition("@")[2]
    return f"{head}{mark}{host}{slash}{path}"[:500]


def _refuse(uri: str, field: str, reason: str, remedy: str = "") -> NoReturn:
    raise InvalidSpecError(f"the URI {show(uri)!r} {reason}", field=field, remedy=remedy)


def _split(uri: str, field: str) -> SplitResult:
    if _CONTROL.search(uri):
        _refuse(uri, field, "holds a control character")
    if "://" not in uri:
        raise InvalidSpecError(
            f"{show(uri)!r} is a path and not a URI",
            field=field,
            remedy="give a folder to ray.init on the driver, which uploads it, or a URI such as file:///path/code.zip",
        )
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 - it is checked when it is read
    except ValueError as error:
        raise InvalidSpecError(f"the URI {show(uri)!r} is malformed", field=field) from error
    return parts


def _expected(uri: str, field: str) -> tuple[str, str | None]:
    """The URI without our fragment, and the digest that it asks for. Any other fragment is left alone."""
    match = _FRAGMENT.search(uri)
    if match is None:
        return uri, None
    if not _SHA256.fullmatch(match[1]):
        _refuse(uri, field, "has a malformed #sha256=", "write 64 hexadecimal digits")
    return uri[: match.start()], match[1].lower()


def _check_address(uri: str, field: str, parts: SplitResult) -> None:
    key = uri.partition("://")[2].partition("/")[2]
    if parts.scheme == "file" and (parts.netloc not in {"", "localhost"} or not parts.path.startswith("/")):
        _refuse(uri, field, "has no absolute path", "write file:///path/code.zip")
    if parts.scheme == GCS and (parts.path or parts.query):
        _refuse(uri, field, "is no name of a package in the GCS")
    if parts.scheme in {"http", "https"} and not parts.hostname:
        _refuse(uri, field, "names no host")
    if parts.scheme in _BUCKETS and not (parts.netloc and key):
        _refuse(uri, field, "names no bucket or no object", f"write {parts.scheme}://bucket/path/code.zip")
    if parts.scheme == "abfss":
        container, _, host = parts.netloc.partition("@")
        if not container or not host.endswith(_ABFSS_HOST) or host == _ABFSS_HOST:
            _refuse(uri, field, "is malformed", f"write abfss://container@account{_ABFSS_HOST}/path/code.zip")
    elif parts.scheme in _BUCKETS and "@" in parts.netloc:
        remedy = "give them in the environment that Ray is started with"
        _refuse(uri, field, "holds credentials, which an object store does not take from there", remedy)


def _package(uri: str, parts: SplitResult, raw: str) -> str:
    """Ray's name of the package file. It hashes the URI as it is written, fragment and all."""
    if parts.scheme == GCS:
        return parts.netloc
    if parts.path.endswith(".whl"):
        return parts.path.rpartition("/")[2]
    suffix = next((s for s in _COMPOUND if raw.endswith(s)), PurePosixPath(raw).suffix)
    return f"{parts.scheme}_{hashlib.sha1(uri.encode(), usedforsecurity=False).hexdigest()}{suffix}"


def _without_extension(package: str) -> str:
    suffix = next((s for s in _COMPOUND if package.endswith(s)), PurePosixPath(package).suffix)
    return package.removesuffix(suffix)


def _secrets(uri: str, parts: SplitResult) -> set[str]:
    found = secrets_in_urls(uri) if parts.scheme != "abfss" else set()
    found.update(value for _, value in parse_qsl(parts.query))
    if "@" in parts.netloc and parts.scheme != "abfss":
        userinfo = parts.netloc.rpartition("@")[0]
        found.update((userinfo, *userinfo.split(":", 1)))
    return found | {unquote(secret) for secret in found}
