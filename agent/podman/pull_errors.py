"""Why a pull failed, in plain words.

Podman's API has no codes for it: everything is a failure with the words of the libraries below it
(containers/image, distribution, net/http, crypto/x509). Those words are looked for here, and nowhere else.
"""

import re
from collections.abc import Sequence

from ray_envd.agent.errors import DeniedError, DiskFullError, DownloadError, EnvError, NetworkError, Retry
from ray_envd.agent.podman.records import ApiError
from ray_envd.agent.redaction import redact_urls

_LONGEST = 600  # characters of podman's own words


class PodmanError(EnvError):
    """Podman could not do what it was asked for, and there is no plainer word for why."""

    code = "podman"
    title = "could not be prepared by podman"


class BrokenServiceError(PodmanError):
    """Podman's service ended while it was asked; another is started for the next attempt."""

    code = "podman_service"
    retry = Retry.TRANSIENT


class NoImageError(DownloadError):
    """There is no such image, or none for this machine."""

    code = "no_image"
    title = "names no image that is to be had"


class RegistryAccessError(DownloadError):
    """The registry wants other credentials."""

    code = "registry_access"
    title = "may not be pulled"


class RegistryTrustError(DownloadError):
    """The registry cannot be trusted: for its certificate, or for having none."""

    code = "registry_trust"
    title = "comes from a registry that is not trusted"


#: What is looked for in lower case, and what it means; the first that is found counts.
_MEANINGS: Sequence[tuple[str, type[EnvError], str, str]] = (
    (
        r"no space left on device|disk quota exceeded",
        DiskFullError,
        "the disk with podman's storage is full",
        "free space there, or name another disk in storage.conf",
    ),
    (
        r"no image found in (?:manifest list|image index) for architecture|exec format error",
        NoImageError,
        "it is not made for this machine's architecture",
        "push an image for this architecture",
    ),
    (
        r"server gave http response to https client",
        RegistryTrustError,
        "the registry speaks plain HTTP, and this machine does not allow that",
        "add it to registries.conf with `insecure = true`, or let it speak TLS",
    ),
    (
        r"x509:|failed to verify certificate|certificate signed by unknown|unknown authority|bad certificate",
        RegistryTrustError,
        "the registry's certificate is not trusted here",
        "put its authority's certificate into /etc/containers/certs.d/REGISTRY/ca.crt",
    ),
    (
        (
            r"unauthorized|authentication required|invalid username/password|access .*denied|denied: "
            r"|forbidden|status(?: code)?:? 40[13]"
        ),
        RegistryAccessError,
        "the registry asks for a user and a password, or refuses those that it was given",
        "run `podman login REGISTRY` as the raylet's user, or name the file with them in REGISTRY_AUTH_FILE",
    ),
    (
        (
            r"manifest unknown|name unknown|name invalid|repository .*not found|not known to registry"
            r"|image not known|no such image|status(?: code)?:? 404"
        ),
        NoImageError,
        "the registry has no such image",
        "check its name, tag and digest",
    ),
    (
        r"source image rejected|rejected by policy|policy\.json",
        DeniedError,
        "this machine's policy for images refuses it",
        "see policy.json of podman on this node",
    ),
    (
        (
            r"connection (?:refused|reset|timed out|closed)|broken pipe|\beof\b|timeout|timed out"
            r"|deadline exceeded|no such host|temporary failure|network is unreachable|no route to host"
            r"|server misbehaving|too ?many ?requests|received unexpected http status|internal server error"
            r"|bad gateway|service unavailable|status(?: code)?:? (?:429|5\d\d)"
        ),
        NetworkError,
        "the registry cannot be reached, or breaks off",
        "see whether it can be reached from this node",
    ),
    (
        r"digest .*(?:mismatch|match)|match .*digest|does not match config|corrupt",
        DownloadError,
        "what the registry has is not what the digest names",
        "push the image again",
    ),
)


def pull_error(words: str, reference: str, field: str) -> EnvError:
    """Why an image cannot be pulled.

    Args:
        words: podman's.
        reference: of the image.
        field: of the runtime env.
    """
    plain = one_line(words)
    for pattern, kind, cause, remedy in _MEANINGS:
        if re.search(pattern, plain.lower()):
            return kind(f"{reference}: {cause}", field=field, remedy=remedy, output=[plain])
    return PodmanError(f"{reference} cannot be pulled", field=field, output=[plain])


def untold(reference: str, error: Exception, field: str) -> EnvError:
    """Podman does not say what there is of an image: its service has ended, or has an error of its own."""
    kind = PodmanError if isinstance(error, ApiError) else BrokenServiceError
    remedy = "see whether podman works for the raylet's user on this node"
    return kind(f"{reference}: no answer", field=field, remedy=remedy, output=[one_line(str(error))])


def one_line(words: str) -> str:
    """Podman's words, short and without credentials of URLs."""
    return redact_urls(" ".join(words.split()))[:_LONGEST]
