"""Validation of the pip and uv fields, against stock's where an unmodified Ray can be asked."""

from typing import Any

import pytest

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.spec import needs_working_dir, parse_pip, parse_uv


def test_a_list_and_a_dictionary_mean_the_same() -> None:
    """A list is short for a dictionary with packages, and duplicates go while the order stays."""
    assert parse_pip(["b", "a", "b"]) == parse_pip({"packages": ["b", "a"], "pip_check": False})
    assert parse_pip(["b", "a", "b"]).requirements == ("b", "a")


def test_every_key_arrives() -> None:
    """Check, version and options stand in the spec under their neutral names."""
    spec = parse_uv(
        {"packages": ["a"], "uv_check": True, "uv_version": "==0.5.0", "uv_pip_install_options": ["--pre"]}
    )
    assert (spec.field, spec.check, spec.tool_version, spec.options) == ("uv", True, "==0.5.0", ("--pre",))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("requirements.txt", "str"),
        (3, "int"),
        (["a", 3], "item 1"),
        ({"pip_check": False}, "'packages' is missing"),
        ({"packages": "requirements.txt"}, "packages is a str"),
        ({"packages": ["a"], "uv_check": True}, "uv_check"),
        ({"packages": ["a"], "pip_check": "yes"}, "pip_check"),
        ({"packages": ["a"], "pip_version": 24}, "pip_version"),
        ({"packages": ["a"], "pip_version": "24; echo"}, "pip_version"),
        ({"packages": ["a"], "pip_version": "==1.0 @ https://host/x"}, "pip_version"),
        ({"packages": ["a"], "pip_install_options": "--pre"}, "pip_install_options"),
        ({"packages": ["a"], "pip_install_options": [1]}, "item 0"),
        ({"packages": ["a\0b"]}, "item 0"),
    ],
)
def test_what_stock_refuses_is_refused_by_name(value: Any, named: str) -> None:
    """The message names the field and what is wrong in it, and says what to write."""
    with pytest.raises(InvalidSpecError) as caught:
        parse_pip(value)
    assert caught.value.field == "pip"
    assert named in caught.value.cause
    assert caught.value.remedy


def test_a_refused_value_is_shown_without_credentials() -> None:
    """A credential in a wrong value does not reach the message."""
    with pytest.raises(InvalidSpecError) as caught:
        parse_uv({"packages": ["a"], "uv_version": "https://user:canary77@host/"})
    assert "canary77" not in str(caught.value)


def test_the_working_dir_is_waited_for_only_where_it_is_named() -> None:
    """Its variable may stand in a requirement or in an option, in either form."""
    assert needs_working_dir(parse_pip(["-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/r.txt"]))
    option = "--find-links=$RAY_RUNTIME_ENV_CREATE_WORKING_DIR"
    assert needs_working_dir(parse_uv({"packages": ["a"], "uv_pip_install_options": [option]}))
    assert not needs_working_dir(parse_pip(["a"]))
