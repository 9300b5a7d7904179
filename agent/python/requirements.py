"""One requirement of a requirements file: what it names, whether it is exact, its canonical spelling."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Pep508
from packaging.utils import canonicalize_name, canonicalize_version

_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_MARKER = re.compile(r"\s+;\s*")
_EXTRAS = re.compile(r"\[[A-Za-z0-9._,\s-]*\]\Z")
_HASH_FRAGMENT = re.compile(r"[#&](?:sha256|sha384|sha512)=[0-9a-fA-F]{32,}")
_COMMIT = re.compile(r"@[0-9a-f]{40}(?:#|\Z)")
_USERINFO = re.compile(r"(://)[^/@\s]*@")


@dataclass(frozen=True)
class Requirement:
    """One requirement, expanded, with absolute paths.

    Attributes:
        text: what a tool is given, without ``-e`` and without the options of the line.
        name: normalised (PEP 503); None for a bare URL or path.
        url: of a direct reference; ``file://`` for a path.
        local: the file or folder that ``url`` is.
        hashes: as ``sha256:…``.
        options: other options of the line (``--config-settings=…``).
        commit: what a repository's revision was found to be.
        exact: whether it can only ever mean one version.
        canonical: equal for two spellings of one requirement, where it is no direct reference.
    """

    text: str
    name: str | None = None
    url: str | None = None
    local: Path | None = None
    editable: bool = False
    hashes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    commit: str = ""
    exact: bool = False
    canonical: str = ""

    @property
    def is_repository(self) -> bool:
        """Whether it names a version control repository."""
        return self.url is not None and "+" in self.url.partition("://")[0]

    def line(self) -> str:
        """The line of a requirements file."""
        text = at_commit(self)
        parts = [f"-e {text}" if self.editable else text, *self.options]
        return " ".join((*parts, *(f"--hash={value}" for value in self.hashes)))

    def identity(self, digests: Mapping[Path, str]) -> str:
        """What enters a key; a local file or folder is known by its content, wherever it lies."""
        body = self.canonical
        if self.local is not None and not self.editable and self.local in digests:
            # The name stays: of a wheel it says what is installed.
            body = f"{self.local.name if self.local.suffix else ''} {digests[self.local]}"
            body += self.text.rpartition(self.local.name)[2]  # extras, marker, fragment
        elif self.local is not None:
            body = f"{body} {digests.get(self.local, '')}"
        return " ".join((str(self.editable), body, *sorted(self.options), *sorted(self.hashes)))


def parse(text: str, base: Path | None) -> Requirement:
    """Reads a requirement.

    Args:
        text: the line without its options.
        base: folder for relative paths; None where there is none.

    Raises:
        ValueError: it is none; the message says why.
    """
    if _is_path(text):
        return _path(text, base)
    try:
        parsed = Pep508(text)
    except InvalidRequirement as error:
        if "://" in text and " " not in text.split(";", maxsplit=1)[0].strip():
            return _direct(text, None, text)
        raise ValueError(str(error).partition("\n")[0]) from error
    name = canonicalize_name(parsed.name)
    if parsed.url:
        return _direct(text, name, parsed.url)
    return Requirement(
        text=text,
        name=name,
        exact=any(
            part.operator == "===" or (part.operator == "==" and not part.version.endswith(".*"))
            for part in parsed.specifier
        ),
        canonical=_canonical(parsed, name),
    )


def at_commit(requirement: Requirement) -> str:
    """The requirement's text, of a repository with the commit in place of the revision."""
    if not requirement.commit or requirement.url is None:
        return requirement.text
    scheme, _, rest = requirement.url.partition("://")
    address, hash_sign, fragment = rest.partition("#")
    host, slash, path = address.partition("/")
    exact = f"{scheme}://{host}{slash}{path.partition('@')[0]}@{requirement.commit}{hash_sign}{fragment}"
    return requirement.text.replace(requirement.url, exact)


def without_credentials(url: str) -> str:
    """The URL less its user part: two users' credentials do not make two places."""
    return _USERINFO.sub(r"\1", url)


def local_path(url: str) -> Path | None:
    """The path that a ``file:`` URL names."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _canonical(parsed: Pep508, name: str) -> str:
    extras = ",".join(sorted(canonicalize_name(extra) for extra in parsed.extras))
    specifiers = sorted(
        part.operator
        + (
            canonicalize_version(part.version)
            if part.operator not in {"===", "~="} and not part.version.endswith(".*")
            else part.version
        )
        for part in parsed.specifier
    )
    marker = f";{parsed.marker}" if parsed.marker else ""
    return f"{name}[{extras}]{','.join(specifiers)}{marker}"


def _is_path(text: str) -> bool:
    if text.startswith((".", "/", "~")):
        return True
    bare = _MARKER.split(text)[0]
    return "://" not in bare and " @ " not in bare and ("/" in bare or bare.endswith(_ARCHIVES))


def _path(text: str, base: Path | None) -> Requirement:
    bare, *marker = _MARKER.split(text, maxsplit=1)
    extras = _EXTRAS.search(bare)
    path = Path(bare[: extras.start()] if extras else bare)
    if not path.is_absolute():
        if base is None:
            raise ValueError("a relative path names nothing on the node")
        path = base / path
    path = Path(os.path.normpath(path))
    absolute = f"{path}{extras.group() if extras else ''}" + (f" ; {marker[0]}" if marker else "")
    return Requirement(text=absolute, url=path.as_uri(), local=path, exact=True, canonical=absolute)


def _direct(text: str, name: str | None, url: str) -> Requirement:
    local = local_path(url)
    exact = local is not None or bool(_HASH_FRAGMENT.search(url)) or bool(_COMMIT.search(url))
    return Requirement(text=text, name=name, url=url, local=local, exact=exact, canonical=text)
