"""Tests of ray_envd.agent.image_reference."""

import pytest

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.image_reference import parse_reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "shown"),
    [
        ("ghcr.io/team/app:1.4", "ghcr.io", "team/app", "ghcr.io/team/app:1.4"),
        ("ghcr.io/team/app", "ghcr.io", "team/app", "ghcr.io/team/app:latest"),
        ("127.0.0.1:5000/app:x_Y.1", "127.0.0.1:5000", "app", "127.0.0.1:5000/app:x_Y.1"),
        ("[::1]:5000/a/b/c:1", "[::1]:5000", "a/b/c", "[::1]:5000/a/b/c:1"),
        ("localhost/app:1", "localhost", "app", "localhost/app:1"),
        ("docker://host:1/a__b-c:1", "host:1", "a__b-c", "host:1/a__b-c:1"),
        (f"reg.example/app@{DIGEST}", "reg.example", "app", f"reg.example/app@{DIGEST}"),
        (f"reg.example/app:1@{DIGEST}", "reg.example", "app", f"reg.example/app@{DIGEST}"),
    ],
)
def test_what_podman_takes_is_read(text: str, registry: str, repository: str, shown: str) -> None:
    """Every form with a registry is taken, and given to podman without what it does not take."""
    reference = parse_reference(text, "image")
    assert (reference.registry, reference.repository, str(reference)) == (registry, repository, shown)


@pytest.mark.parametrize("text", ["ubuntu", "ubuntu:22.04", "library/ubuntu", f"ubuntu@{DIGEST}"])
def test_short_names_are_refused_with_the_remedy(text: str) -> None:
    """Which registry a short name means is each machine's own setting."""
    with pytest.raises(InvalidSpecError, match="is a short name") as caught:
        parse_reference(text, "image_uri")
    assert caught.value.field == "image_uri"
    assert "registry/repository:tag" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oci:/tmp/x",
        "docker-archive:/tmp/x.tar",
        "https://ghcr.io/team/app:1",
        "ghcr.io/Team/app:1",
        "ghcr.io/team/app:",
        "ghcr.io/team/app:1 --privileged",
        "--privileged",
        "ghcr.io/../app:1",
        "ghcr.io/app@sha256:short",
        "ghcr.io/team/app:1\n",
        "ghcr.io/team/äpp:1",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """Nothing that podman would take for an option, a file or two words passes."""
    with pytest.raises(InvalidSpecError):
        parse_reference(text, "image")
