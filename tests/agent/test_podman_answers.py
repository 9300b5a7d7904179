"""What podman says, read: why a pull failed, what an image weighs, whose password it is."""

import base64
import json
from pathlib import Path

import pytest

from ray_envd.agent.errors import DeniedError, DiskFullError, DownloadError, EnvError, NetworkError, Retry
from ray_envd.agent.podman.auth import credentials
from ray_envd.agent.podman.pull_errors import (
    NoImageError,
    PodmanError,
    RegistryAccessError,
    RegistryTrustError,
    pull_error,
    untold,
)
from ray_envd.agent.podman.records import ApiError, Inspected, Layer, Step, UnreachableError, chain_ids

_A, _B, _C = (f"sha256:{digit * 64}" for digit in "abc")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("reading manifest 1 in r.io/a: manifest unknown: manifest unknown", NoImageError),
        ("reading manifest x in docker.io/library/a: errors: name unknown: not here", NoImageError),
        ("choosing an image: no image found in manifest list for architecture s390x", NoImageError),
        ("initializing source: reading manifest: unauthorized: authentication required", RegistryAccessError),
        ("requested access to the resource is denied", RegistryAccessError),
        ('Get "https://r.io/v2/": x509: certificate signed by unknown authority', RegistryTrustError),
        ('Get "https://r.io/v2/": http: server gave HTTP response to HTTPS client', RegistryTrustError),
        ("Source image rejected: Running image docker://r.io/a is rejected by policy.", DeniedError),
        ("writing blob: storing blob to file: write /var/tmp/1: no space left on device", DiskFullError),
        ('Get "https://r.io/v2/": dial tcp 10.0.0.1:443: connect: connection refused', NetworkError),
        ("read tcp 1.2.3.4:5->6.7.8.9:443: read: connection reset by peer", NetworkError),
        ("writing blob: happened during read: unexpected EOF", NetworkError),
        ("dial tcp: lookup r.io: no such host", NetworkError),
        ("received unexpected HTTP status: 503 Service Unavailable", NetworkError),
        ("toomanyrequests: You have reached your pull rate limit", NetworkError),
        ("Digest did not match, expected sha256:aa, got sha256:bb", DownloadError),
        ("the moon is in the wrong house", PodmanError),
    ],
)
def test_each_failure_has_its_class(words: str, kind: type[EnvError]) -> None:
    """What may pass is tried again, what will not is told at once; podman's words come along."""
    error = pull_error(words, "r.io/a:1", "image")
    assert type(error) is kind
    assert error.field == "image"
    assert "r.io/a:1" in error.cause
    assert error.output == (words,)
    assert bool(error.remedy) or kind is PodmanError
    assert (error.retry is Retry.TRANSIENT) == (kind in {NetworkError, DiskFullError})


def test_a_service_that_ended_is_asked_again() -> None:
    """What podman itself says will not pass."""
    for error, retry in ((UnreachableError("gone"), Retry.TRANSIENT), (ApiError("odd"), Retry.PERMANENT)):
        told = untold("r.io/a:1", error, "image")
        assert (told.retry, told.output) == (retry, (str(error),))


def test_no_password_is_told() -> None:
    """Not even one that podman repeats from a proxy's address."""
    error = pull_error("proxyconnect https://me:geheim@proxy:80: connection refused", "r.io/a:1", "image")
    assert "geheim" not in str(error)


def test_layers_are_known_by_all_below_them() -> None:
    """The same files on another base are another folder of the storage."""
    assert chain_ids([]) == []
    first, second = chain_ids([_A, _B])
    assert first == _A
    assert second not in {_B, chain_ids([_C, _B])[1]}
    assert chain_ids([_A, _B, _C])[:2] == [first, second]


def test_steps_without_files_have_no_layer() -> None:
    """Sizes belong to layers in their order; where they cannot be told apart the image is one piece."""
    attributes = {
        "Id": f"sha256:{'1' * 64}",
        "Size": 70,
        "RootFS": {"Layers": [_A, _B]},
        "RepoTags": None,
        "Config": {"Env": ["A=x=y", "EMPTY=", "PATH=/bin"]},
    }
    image = Inspected.of(attributes, [0, 50, 0, 20])
    assert image.layers == (Layer(_A, 20), Layer(chain_ids([_A, _B])[1], 50))
    assert (image.id, image.names, image.digest) == ("1" * 64, (), "")
    assert image.variables == {"A": "x=y", "EMPTY": "", "PATH": "/bin"}
    assert Inspected.of(attributes, [50]).layers == (Layer(f"image:{'1' * 64}", 70),)


def test_steps_of_a_pull_without_bytes() -> None:
    """Podman leaves out what it does not know."""
    assert Step.of({"status": "Pulling fs layer", "progressDetail": {}, "id": "abc"}) == Step(
        "abc", "Pulling fs layer"
    )
    told = {"status": "Downloading", "progressDetail": {"current": 5, "total": 9}, "id": "abc"}
    assert Step.of(told) == Step("abc", "Downloading", 5, 9)


def test_credentials_of_the_longest_name_count(tmp_path: Path) -> None:
    """A repository's own before its registry's; without the variable podman looks for itself."""

    def auth(user: str) -> dict[str, str]:
        return {"auth": base64.b64encode(f"{user}:se:cret".encode()).decode()}

    file = tmp_path / "auth.json"
    environment = {"REGISTRY_AUTH_FILE": str(file)}
    assert credentials(environment, "r.io/team/app") is None
    file.write_text(json.dumps({"auths": {"r.io": auth("all"), "r.io/team": auth("team"), "x.io": {}}}))
    for name, user in (("r.io/team/app", "team"), ("r.io/other", "all")):
        found = credentials(environment, name)
        assert found is not None
        assert (found.username, found.password) == (user, "se:cret")
        assert "cret" not in repr(found)
    assert credentials(environment, "x.io/app") is None
    assert credentials(environment, "y.io/app") is None
    assert credentials({}, "r.io/other") is None
    for broken in ("{", "[]", '{"auths": {"r.io": {"auth": "%%%"}}}', '{"auths": {"r.io": 5}}'):
        file.write_text(broken)
        assert credentials(environment, "r.io/other") is None
