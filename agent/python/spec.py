"""The ``pip`` and ``uv`` fields of a runtime env, validated as stock Ray validates them.

Stock's driver has already read a requirements file that was given by its name, so on the node a field is a
list of requirement lines or a dictionary (``ray/_private/runtime_env/validation.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from packaging.requirements import InvalidRequirement, Requirement

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.redaction import redact_urls

Field = Literal["pip", "uv"]
#: Set for the tools to the folder of the unpacked working_dir, as in stock.
WORKING_DIR_VARIABLE = "RAY_RUNTIME_ENV_CREATE_WORKING_DIR"

_KEYS: Mapping[Field, tuple[str, str, str]] = {
    "pip": ("pip_check", "pip_version", "pip_install_options"),
    "uv": ("uv_check", "uv_version", "uv_pip_install_options"),
}


@dataclass(frozen=True)
class PackagesSpec:
    """A valid pip or uv field, as the user wrote it.

    Attributes:
        requirements: lines of a requirements file, order kept, duplicates gone.
        options: of ``pip install`` or ``uv pip install``.
        check: whether conflicts in the finished environment are an error.
        tool_version: a version specifier for pip or uv such as ``==24.0``; None for any.
    """

    field: Field
    requirements: tuple[str, ...]
    options: tuple[str, ...] = ()
    check: bool = False
    tool_version: str | None = None


def parse_pip(value: Any) -> PackagesSpec:
    """The ``pip`` field.

    Raises:
        InvalidSpecError: it is not what stock accepts.
    """
    return _parse("pip", value)


def parse_uv(value: Any) -> PackagesSpec:
    """The ``uv`` field.

    Raises:
        InvalidSpecError: it is not what stock accepts.
    """
    return _parse("uv", value)


def needs_working_dir(spec: PackagesSpec) -> bool:
    """Whether the spec names the unpacked working_dir, so that it must be there first."""
    return any(WORKING_DIR_VARIABLE in text for text in (*spec.requirements, *spec.options))


def _parse(field: Field, value: Any) -> PackagesSpec:
    if isinstance(value, list):
        value = {"packages": value}
    if not isinstance(value, dict):
        _refuse(
            field,
            f"it is a {type(value).__name__}",
            "give a list of requirements, or a dictionary; the path of a requirements file is read by"
            " Ray's driver and does not reach the node",
        )
    check, version, options = _KEYS[field]
    unknown = set(value) - {"packages", check, version, options}
    if unknown:
        _refuse(
            field,
            f"it has the unknown key {_shown(min(map(str, unknown)))}",
            f"use only packages, {check}, {version} and {options}",
        )
    if "packages" not in value:
        _refuse(field, "'packages' is missing", "list the requirements under 'packages'")
    checked = value.get(check, False)
    if not isinstance(checked, bool):
        _refuse(field, f"{check} is {_shown(checked)}", f"set {check} to true or false")
    return PackagesSpec(
        field=field,
        requirements=tuple(dict.fromkeys(_strings(field, "packages", value["packages"]))),
        options=_strings(field, options, value.get(options) or []),
        check=checked,
        tool_version=_version(field, version, value.get(version)),
    )


def _strings(field: Field, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        _refuse(field, f"{key} is a {type(value).__name__}", f"make {key} a list of strings")
    for position, item in enumerate(value):
        if not isinstance(item, str) or "\0" in item:
            _refuse(
                field, f"item {position} of {key} is {_shown(item)}", f"make every item of {key} a string"
            )
    return tuple(value)


def _version(field: Field, key: str, value: Any) -> str | None:
    """A specifier; stock puts the tool's name in front of it and calls that a requirement."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        _refuse(field, f"{key} is of type {type(value).__name__}", f'write {key} as a string such as "==1.0"')
    try:
        requirement = Requirement(f"{field}{value}")
    except InvalidRequirement:
        requirement = None
    if requirement is None or requirement.name != field:
        _refuse(field, f"{key} is {_shown(value)}", 'write a version specifier such as "==1.0"')
    return value


def _refuse(field: Field, cause: str, remedy: str) -> NoReturn:
    raise InvalidSpecError(cause, field=field, remedy=remedy)


def _shown(value: Any) -> str:
    text = redact_urls(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - one line of a message
