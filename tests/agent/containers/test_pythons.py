"""Which of an image's Pythons Ray gets, of what a search has found."""

from typing import Any

import pytest

from ray_envd.agent.containers.pythons import choose, understood
from ray_envd.agent.errors import UnsupportedError
from ray_envd.agent.image_spec import ImageSpec, parse_image

_WORKER = "/ray/_private/workers/default_worker.py"


def python(path: str, version: str, ray: str | None) -> dict[str, Any]:
    """As the search says it."""
    facts = {
        "version": version,
        "implementation": "cpython",
        "abi": "x",
        "prefix": "/p",
        "base_prefix": "/p",
        "base_executable": path,
        "purelib": "lib/python/site-packages",
        "site_dirs": [],
        "markers": dict.fromkeys(("platform_machine", "sys_platform", "implementation_name"), "x"),
        "distributions": [],
        "ray_version": ray,
        "ray_path": "/ray" if ray else None,
        "stamps": {},
    }
    return {"path": path, "facts": facts, "worker": _WORKER if ray else ""}


def spec(**fields: Any) -> ImageSpec:
    """Of ``container``, which may name a worker script."""
    parsed = parse_image({"container": {"image": "localhost/app:1", **fields}})
    assert parsed is not None
    return parsed


FOUND = [
    {"path": "/usr/bin/python", "error": "Segmentation fault"},
    python("/usr/bin/python3", "3.8.10", None),
    python("/usr/local/bin/python3", "3.12.1", None),
    python("/opt/old/bin/python", "3.11.4", "2.9.0"),
    python("/opt/new/bin/python", "3.11.9", "2.60.0"),
]


def test_the_first_with_rays_version_is_taken() -> None:
    """Patch versions of Python may differ; the worker script is the one that is named, if one is."""
    chosen, worker = choose(understood(FOUND, "id"), spec(), ray_version="2.60.0", python_version="3.11.2")
    assert (chosen.executable, chosen.image, worker) == ("/opt/new/bin/python", "id", _WORKER)
    named = spec(worker_path="/else/where.py")
    assert (
        choose(understood(FOUND, "id"), named, ray_version="", python_version="3.11.2")[1] == "/else/where.py"
    )
    other = understood(FOUND, "another image")[-1].python
    assert other is not None
    assert other.digest != chosen.digest


@pytest.mark.parametrize(
    ("found", "ray_version", "python_version", "told"),
    [
        (FOUND, "2.61.0", "3.11.2", "has Ray 2.9.0 (/opt/old/bin/python), the cluster has Ray 2.61.0"),
        (FOUND, "2.60.0", "3.12.0", "has Python 3.11.9 (/opt/new/bin/python), the cluster has Python 3.12.0"),
        (FOUND[:3], "2.60.0", "3.11.2", "/usr/local/bin/python3: Python 3.12.1, no Ray"),
        (FOUND[:1], "2.60.0", "3.11.2", "/usr/bin/python: Segmentation fault"),
    ],
)
def test_what_does_not_fit_is_told_with_both_sides(
    found: list[dict[str, Any]], ray_version: str, python_version: str, told: str
) -> None:
    """The image's and the cluster's, or all that was found where none has Ray."""
    with pytest.raises(UnsupportedError) as raised:
        choose(understood(found, "id"), spec(), ray_version=ray_version, python_version=python_version)
    assert told in str(raised.value)
    assert raised.value.field == "container"


@pytest.mark.parametrize("said", [[{}], [{"path": "/p", "facts": {}}], ["text"]])
def test_what_is_no_search_is_not_believed(said: list[Any]) -> None:
    """What is remembered stands among the user's own files."""
    with pytest.raises((ArithmeticError, AttributeError, LookupError, TypeError, ValueError)):
        understood(said, "id")
