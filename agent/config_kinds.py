"""How the text of a setting is read: one :class:`Kind` for each form that a value can have."""

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ray_envd.agent.humanize import (
    DURATION_FORMS,
    SIZE_FORMS,
    Size,
    parse_bytes,
    parse_duration,
    parse_pull_policy,
    parse_size,
)

T = TypeVar("T")
Address = tuple[str, int]

NONE, AUTO = "none", "auto"
#: Of objects in the store.
OBJECT_KINDS = ("python", "archive", "base", "tool", "image")
_MOST_PORT = 65535
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "json")


@dataclass(frozen=True)
class Kind:
    """How the text of a setting is read.

    Attributes:
        name: for tables.
        parse: text to value; ValueError with the reason.
        remedy: how to write it.
    """

    name: str
    parse: Callable[[str], Any]
    remedy: str


def absolute_path(text: str) -> Path:
    """A path, ``~`` expanded, relative ones from the current folder."""
    if not text or "\0" in text:
        raise ValueError("it is not a path")
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - no symlink is resolved


def parse_address(text: str) -> Address:
    """``host:port`` or ``[v6]:port``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > _MOST_PORT:
        raise ValueError("it is not host:port")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError("an IPv6 address stands in brackets")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _or_none(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text.strip().lower() == NONE else parse(text)


def _or_auto(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text.strip().lower() == AUTO else parse(text)


def parse_kinds(text: str) -> dict[str, Size]:
    """``kind=share,...``, each kind once; empty for ``none``."""
    if text.strip().lower() == NONE:
        return {}
    shares: dict[str, Size] = {}
    for part in text.split(","):
        kind, equals, share = (each.strip() for each in part.partition("="))
        if not equals:
            raise ValueError(f"{part.strip()!r} is not kind=size")
        if kind not in OBJECT_KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(OBJECT_KINDS)}")
        if kind in shares:
            raise ValueError(f"{kind} is named twice")
        try:
            shares[kind] = parse_size(share)
        except ValueError as error:
            raise ValueError(f"{share!r} of {kind}: {error}") from None
    return shares


def parse_option_names(text: str) -> frozenset[str]:
    """``--name,...``: long options without their dashes; empty for ``none``."""
    if text.strip().lower() == NONE:
        return frozenset()
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if not re.fullmatch(r"--[a-z][a-z0-9-]*", name):
            raise ValueError(f"{name!r} is no long option")
    return frozenset(name.removeprefix("--") for name in names)


def parse_folders(text: str) -> tuple[Path, ...]:
    """``/path,...``; empty for ``none``."""
    if text.strip().lower() == NONE:
        return ()
    folders = tuple(Path(part.strip()) for part in text.split(","))
    for folder in folders:
        if not folder.is_absolute() or ".." in folder.parts:
            raise ValueError(f"{str(folder)!r} is not an absolute path without '..'")
    return folders


def _positive(parse: Callable[[str], T]) -> Callable[[str], T]:
    def checked(text: str) -> T:
        value = parse(text)
        if not value > 0:  # type: ignore[operator] # numbers only
            raise ValueError("it must be more than 0")
        return value

    return checked


def _number(parse: Callable[[str], T]) -> Callable[[str], T]:
    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError:
            raise ValueError("it is not a number") from None

    return checked


def _one_of(*words: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it is none of {', '.join(words)}")
        return text.lower()

    return checked


def _flag(text: str) -> bool:
    return _one_of("true", "false", "1", "0", "yes", "no", "on", "off")(text) in {"true", "1", "yes", "on"}


PATH = Kind("path", absolute_path, "write an absolute path")
OPTIONAL_PATH = Kind("path or none", _or_none(absolute_path), "write an absolute path, or none")
PROGRAM = Kind(
    "path or none",
    _or_none(lambda text: str(absolute_path(text))),
    "write the path of an interpreter, or none",
)
ADDRESS = Kind("host:port or none", _or_none(parse_address), "write host:port, e.g. 127.0.0.1:8497, or none")
SWITCH = Kind("true or false", _flag, "write true or false")
COUNT = Kind("number", _positive(_number(int)), "write a whole number above 0")
RATIO = Kind("number", _positive(_number(float)), "write a number above 0")
OPTIONAL_RATIO = Kind(
    "number or none", _or_none(_positive(_number(float))), "write a number above 0, or none"
)
OPTIONAL_BYTES = Kind("size or none", _or_none(_positive(parse_bytes)), f"{SIZE_FORMS}, or none")
OPTION_NAMES = Kind("list or none", parse_option_names, "write options such as --cap-add,--device, or none")
PULL_POLICY = Kind(
    "word or duration",
    parse_pull_policy,
    f"write missing, always, or how long a tag is trusted: {DURATION_FORMS}",
)
FOLDERS = Kind("list or none", parse_folders, "write absolute paths such as /data,/mnt/models, or none")
BYTES = Kind("size", _positive(parse_bytes), SIZE_FORMS)
SHARE = Kind("size or percent", parse_size, f"{SIZE_FORMS}, or a percentage such as 85%")
OPTIONAL_SHARE = Kind(
    "size, percent or auto", _or_auto(parse_size), f"{SIZE_FORMS}, a percentage such as 85%, or auto"
)
KIND_SHARES = Kind("list or none", parse_kinds, "write kind=size, such as python=20GiB,archive=10%, or none")
SECONDS = Kind("duration", parse_duration, DURATION_FORMS)
OPTIONAL_SECONDS = Kind("duration or none", _or_none(_positive(parse_duration)), f"{DURATION_FORMS}, or none")
LEVEL = Kind("word", _one_of(*LEVELS), f"write one of {', '.join(LEVELS)}")
FORMAT = Kind("word", _one_of(*FORMATS), f"write one of {', '.join(FORMATS)}")
