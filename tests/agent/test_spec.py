"""What a serialized runtime env is read as."""

import json

import pytest

from ray_envd.agent.errors import EnvError, InvalidSpecError, UnsupportedError
from ray_envd.agent.spec import parse


def test_fields_env_vars_and_unknown_fields_are_told_apart() -> None:
    """Installers see their fields; driver-only ones are silent; a field nobody knows is reported."""
    spec = parse(
        json.dumps(
            {
                "pip": ["six"],
                "working_dir": "gcs://_ray_pkg_1.zip",
                "env_vars": {"A": "1"},
                "config": {"setup_timeout_seconds": 5},
                "_ray_commit": "abc",
                "excludes": ["x"],
                "java_jars": [],
                "uv": None,
                "mystery": 1,
            }
        )
    )
    assert dict(spec.fields) == {"pip": ["six"], "working_dir": "gcs://_ray_pkg_1.zip"}
    assert spec.env_vars == {"A": "1"}
    assert spec.unknown == ("mystery",)


def test_the_empty_text_is_an_empty_env() -> None:
    """Ray sends nothing at all for an env without fields."""
    assert parse("").fields == {}


@pytest.mark.parametrize(
    ("field", "title"),
    [
        ("conda", "conda"),
        ("_nsight", "nsight"),
        ("_rocprof_sys", "rocprof-sys"),
        ("java_jars", "java_jars"),
    ],
)
def test_fields_of_later_versions_are_named(field: str, title: str) -> None:
    """A field that is not served yet fails with its own name, as its users write it."""
    with pytest.raises(UnsupportedError, match=title) as caught:
        parse(json.dumps({field: ["something"]}))
    assert caught.value.field == title
    assert caught.value.remedy


def test_an_unknown_field_fails_where_plugins_are_configured() -> None:
    """It may be a plug-in's, and ignoring it would run the task in the wrong env."""
    with pytest.raises(UnsupportedError, match="mystery"):
        parse('{"mystery": 1}', plugins_configured=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "list"),
        ('{"env_vars": ["A=1"]}', "object of strings"),
        ('{"env_vars": {"A": 1}}', "int"),
        ('{"env_vars": {"A=B": "1"}}', "environment"),
        ('{"env_vars": {"A": "x\\u0000y"}}', "environment"),
        ('{"pip": ["a"], "uv": ["b"]}', "cannot both"),
    ],
)
def test_malformed_envs_are_refused_with_the_reason(text: str, words: str) -> None:
    """Each malformed env is an InvalidSpecError that says what is wrong."""
    with pytest.raises(InvalidSpecError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert isinstance(caught.value, EnvError)


def test_redaction_hides_values_and_credentials_but_not_names() -> None:
    """The masked view keeps what a person needs to recognise the env."""
    spec = parse(
        json.dumps(
            {
                "env_vars": {"TOKEN": "canary-value"},
                "pip": ["pkg @ https://user:canary-pw@host/x.whl?sig=canary-sig"],
            }
        )
    )
    assert "canary" not in spec.redacted
    assert "TOKEN" in spec.redacted
    assert "host/x.whl" in spec.redacted
    assert spec.redactor("failed: canary-value, canary-pw, canary-sig") == "failed: ***, ***, ***"


@pytest.mark.parametrize(
    "options",
    [
        ["--env", "A=canary word"],
        ["-eA=canary word", "--cpus=1"],
        ["--env 'A=canary word'"],
        ["-e", "A=canary", "x"],
    ],
)
def test_variables_in_run_options_are_secret_too(options: list[str]) -> None:
    """Stock's users pass variables so; nobody reads their values in a listing or a log."""
    text = json.dumps({"container": {"image": "reg.example/app:1", "run_options": options}})
    spec = parse(text)
    assert "canary" not in spec.redacted
    assert "canary" not in spec.redactor("podman said: A=canary word")
    assert "reg.example/app:1" in spec.redacted
