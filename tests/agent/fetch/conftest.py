"""Servers and contexts for the tests of downloads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fetch_servers import (
    S3,
    Authority,
    KeyValueStore,
    MakeContext,
    Request,
    Serve,
    ServeGcs,
    WebServer,
    serve_s3,
)

from ray_envd.agent.fetch import FetchContext, GcsEndpoint
from ray_envd.agent.redaction import Redactor
from ray_envd.cache.owner import Owner

#: What keeps a test from asking the metadata service of the machine it runs on.
_NO_METADATA = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true", "HOME": "/nonexistent"}


@pytest.fixture
def make_context() -> MakeContext:
    """Contexts of this user; the remaining arguments are the environment."""

    def make(
        *,
        owner: Owner | None = None,
        gcs: GcsEndpoint | None = None,
        max_bytes: int = 1 << 30,
        **environment: str,
    ) -> FetchContext:
        whole = {**_NO_METADATA, **environment}
        return FetchContext(owner or Owner.current(), whole, gcs, Redactor(), max_bytes)

    return make


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a download goes: alone in its folder."""
    folder = tmp_path / "download"
    folder.mkdir()
    return folder / "package"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts web servers."""
    servers: list[WebServer] = []

    def start(handler: Callable[[Request], None], certificate: Path | None = None) -> WebServer:
        servers.append(WebServer(handler, certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Nobody trusts it unless told."""
    return Authority.at(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A server of moto's."""
    yield from serve_s3()


@pytest.fixture
def serve_gcs() -> Iterator[ServeGcs]:
    """Starts key-value stores."""
    stores: list[KeyValueStore] = []

    def start(authority: Authority | None = None) -> KeyValueStore:
        stores.append(KeyValueStore(authority))
        return stores[-1]

    yield start
    for store in stores:
        store.stop()
