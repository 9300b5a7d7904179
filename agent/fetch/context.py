"""On whose behalf something is fetched, and what came of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ray_envd.agent.redaction import Redactor
from ray_envd.cache.owner import Owner


@dataclass(frozen=True)
class GcsEndpoint:
    """How to reach the control store of a Ray cluster.

    Attributes:
        address: host:port.
        token: the cluster's bearer token; None where it has none.
        server_cert: path of this node's certificate; with it and the two below, TLS is used.
        server_key: path of its key.
        ca_cert: path of the authority's certificate.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    server_cert: str | None = None
    server_key: str | None = None
    ca_cert: str | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


@dataclass(frozen=True)
class FetchContext:
    """What a fetch may use.

    Attributes:
        owner: whose file it becomes, and as whom files and credentials are read.
        environment: the raylet's; credentials, proxies, certificates and ``RAY_*`` come from here, never
            from the daemon's own.
        gcs: the cluster's control store; None where there is none.
        redact: applied to every text that leaves.
        max_bytes: a larger file is a NeverFitsError.
    """

    owner: Owner
    environment: Mapping[str, str] = field(repr=False)
    gcs: GcsEndpoint | None
    redact: Redactor
    max_bytes: int


@dataclass(frozen=True)
class Fetched:
    """A file that has arrived.

    Attributes:
        sha256: of its content, hex.
        bytes: its size.
        validator: the source's token of freshness at that moment; None if it has none.
    """

    sha256: str
    bytes: int
    validator: str | None


#: Awaited with the number of bytes that are about to be written.
Secure = Callable[[int], Awaitable[None]]
#: Called on the event loop with the bytes so far and in all (0: not known).
Report = Callable[[int, int], None]
