"""Tests of ray_envd.agent.image_spec."""

import math
from typing import Any

import pytest

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.image_spec import Mount, parse_image

URI = "reg.example/app:1"


def test_nothing_is_no_image() -> None:
    """Empty fields are as good as absent."""
    assert parse_image({"image": "", "container": {}, "pip": ["six"]}) is None


@pytest.mark.parametrize("whole", [{"image": URI}, {"image": {"uri": URI}}, {"image_uri": URI}])
def test_an_image_alone_has_the_defaults(whole: dict[str, Any]) -> None:
    """Where a runtime env says nothing, the daemon's settings decide."""
    spec = parse_image(whole)
    assert spec is not None
    assert spec.field == next(iter(whole))
    assert str(spec.reference) == URI
    assert (spec.run_options, spec.max_age, spec.memory, spec.cpus, spec.mounts) == ((), None, None, None, ())


def test_all_that_image_may_say() -> None:
    """Sizes, numbers and mounts in each of their forms."""
    spec = parse_image(
        {
            "image": {
                "uri": URI,
                "run_options": ["--pids-limit=100"],
                "pull_policy": "always",
                "memory": "2GiB",
                "cpus": 1.5,
                "mounts": ["/data:/in", "/out:/out:rw", {"source": "/a"}, {"source": "/b", "target": "/c"}],
            }
        }
    )
    assert spec is not None
    assert (spec.run_options, spec.max_age, spec.memory, spec.cpus) == (
        ("--pids-limit=100",),
        0.0,
        2 * 1024**3,
        1.5,
    )
    assert spec.mounts == (
        Mount("/data", "/in", read_only=True),
        Mount("/out", "/out", read_only=False),
        Mount("/a", "/a", read_only=True),
        Mount("/b", "/c", read_only=True),
    )


def test_container_is_read_as_ray_has_it() -> None:
    """The older field: image, run_options, worker_path."""
    value = {"image": URI, "run_options": ["--cpus=1"], "worker_path": "/x/default_worker.py"}
    spec = parse_image({"container": value})
    assert spec is not None
    assert (spec.run_options, spec.worker_path) == (("--cpus=1",), "/x/default_worker.py")


@pytest.mark.parametrize(
    ("policy", "age"), [("missing", math.inf), ("always", 0.0), ("1h", 3600.0), (90, 90.0)]
)
def test_a_pull_policy_is_a_word_or_an_age(policy: object, age: float) -> None:
    """How long a tag is taken to mean the image that it meant."""
    spec = parse_image({"image": {"uri": URI, "pull_policy": policy}})
    assert spec is not None
    assert spec.max_age == age


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"image": URI, "image_uri": URI}, "cannot both be given"),
        ({"image": 3}, "string or an object"),
        ({"image_uri": [URI]}, "must be a string"),
        ({"image": {"pull_policy": "missing"}}, "'uri'"),
        ({"image": {"uri": URI, "privileged": True}}, "'privileged' is not known"),
        ({"container": {"image": URI, "memory": "1GiB"}}, "'memory' is not known"),
        ({"image": {"uri": URI, "run_options": "--cpus=1"}}, "'run_options' must be a list"),
        ({"image": {"uri": URI, "run_options": [1]}}, "'run_options' must be a list of strings"),
        ({"image": {"uri": URI, "pull_policy": "never"}}, "'pull_policy' is 'never'"),
        ({"image": {"uri": URI, "pull_policy": ["missing"]}}, "'pull_policy'"),
        ({"image": {"uri": URI, "memory": "lots"}}, "'memory' is 'lots'"),
        ({"image": {"uri": URI, "memory": 5}}, "'memory' is 5"),
        ({"image": {"uri": URI, "cpus": 0}}, "'cpus' is 0"),
        ({"image": {"uri": URI, "cpus": True}}, "'cpus' is True"),
        ({"image": {"uri": URI, "mounts": ["data:/data"]}}, "'data' is not an absolute path"),
        ({"image": {"uri": URI, "mounts": ["/data/../etc:/x"]}}, "without '..'"),
        ({"image": {"uri": URI, "mounts": ["/data:/x:z"]}}, "neither ro nor rw"),
        ({"image": {"uri": URI, "mounts": [{"source": "/a", "read_only": "no"}]}}, "'read_only'"),
        ({"image": {"uri": URI, "mounts": [{"source": "/a,b"}]}}, "without"),
    ],
)
def test_what_is_wrong_is_named(whole: dict[str, Any], said: str) -> None:
    """The field, the value and the reason stand in the error."""
    with pytest.raises(InvalidSpecError, match="runtime_env") as caught:
        parse_image(whole)
    assert said in str(caught.value)
    assert caught.value.field in whole
