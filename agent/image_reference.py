"""Names of images, as ``registry/repository:tag@digest``.

The grammar is that of the distribution project's reference package, which podman and docker share. Short
names (``ubuntu``, ``library/ubuntu``) are refused: which registry they mean is each machine's own setting, so
one runtime env would be another image on another node.
"""

import re
from dataclasses import dataclass

from ray_envd.agent.errors import InvalidSpecError

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::\d+)?"
_REFERENCE = re.compile(
    rf"(?P<registry>{_HOST})/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_TRANSPORT = "docker://"
_OTHERS = ("containers-storage:", "dir:", "docker-archive:", "docker-daemon:", "oci-archive:", "oci:")
_DEFAULT_TAG = "latest"
_SHOWN = "write registry/repository:tag or registry/repository@sha256:DIGEST, such as ghcr.io/team/app:1.4"


@dataclass(frozen=True, slots=True)
class Reference:
    """One image in one registry.

    Attributes:
        registry: host, and port where it has one; ``localhost`` for images that were built on this machine.
        repository: the path in the registry.
        tag: None where only a digest is given.
        digest: ``sha256:…`` of the manifest; None where the tag decides.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        """What podman pulls. It takes no tag beside a digest, which decides anyway."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_reference(text: str, field: str) -> Reference:
    """Reads a reference; without tag and digest it is ``latest``, as everywhere.

    Raises:
        InvalidSpecError: it is a short name, of another transport, or no reference at all.
    """
    plain = text.removeprefix(_TRANSPORT)
    if "://" in plain or plain.startswith(_OTHERS):
        raise InvalidSpecError(f"{text!r} is not in a registry", field=field, remedy=_SHOWN)
    match = _REFERENCE.fullmatch(plain)
    if match is None or not _is_host(match["registry"]):
        reason = (
            "is a short name: it does not say from which registry" if _is_short(plain) else "is no reference"
        )
        raise InvalidSpecError(f"{text!r} {reason}", field=field, remedy=_SHOWN)
    tag = match["tag"] or (None if match["digest"] else _DEFAULT_TAG)
    return Reference(match["registry"], match["repository"], tag, match["digest"])


def _is_host(text: str) -> bool:
    """Whether the first part of a name is a registry: the rule by which docker and podman tell."""
    return text == "localhost" or "." in text or ":" in text


def _is_short(text: str) -> bool:
    return bool(re.fullmatch(rf"{_PART}(?:/{_PART})*(?::[\w.-]+)?(?:@\S+)?", text, re.ASCII))
