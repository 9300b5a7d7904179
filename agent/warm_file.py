"""The file of runtime envs that the daemon keeps warm: TOML, or JSON of the same form if its name ends so.

::

    python = "/opt/ray/bin/python"      # for those that name none; else the daemon's `python`

    [[envs]]
    name = "summarizer"                 # for people
    runtime_env = { image = "registry:5000/summarizer:3", pip = ["six"] }
    pin = false                         # true unless said otherwise
    python = "/opt/other/bin/python"
    user = "ray"                        # whose raylets will ask; for a daemon of root
    environment = { HTTPS_PROXY = "http://proxy:3128" }

``python``, ``user``, ``pin`` and ``environment`` may stand above all envs, for those that do not say. A
runtime env is written as Ray sends it to a node: no driver has read requirement files or uploaded folders.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ray_envd.agent.config import ConfigError
from ray_envd.agent.prefetch import Wish
from ray_envd.cache.keys import digest_of

#: Seconds for one attempt: images are large, and nobody waits.
_TIMEOUT = 3600
_LARGEST = 16 * 1024**2
_COMMON = {"python": str, "user": str, "pin": bool, "environment": dict}
_OF_AN_ENV = {"name": str, "runtime_env": dict, **_COMMON}
_KINDS = {str: "a string", bool: "true or false", dict: "a table", list: "a list of tables"}
_REMEDY = 'write [[envs]] and below it runtime_env = { pip = ["six==1.16.0"] } for each runtime env'
_SHOWN = 60


@dataclass(frozen=True)
class WarmEnv:
    """One entry.

    Attributes:
        title: what people call it.
        wish: the runtime env, and for whom.
        pin: whether its objects stay for as long as the entry does.
    """

    title: str
    wish: Wish
    pin: bool

    @cached_property
    def digest(self) -> str:
        """The same for entries that mean the same, whatever they are called."""
        wish = self.wish
        return digest_of(wish.serialized, wish.python, wish.user, dict(wish.environment), self.pin)


@dataclass(frozen=True)
class Wanted:
    """What a file said.

    Attributes:
        envs: its entries.
        stamp: the file's, from before it was read.
    """

    envs: tuple[WarmEnv, ...] = ()
    stamp: tuple[int, ...] = ()

    @classmethod
    def at(cls, path: Path | None) -> "Wanted":
        """Reads a file; blocking. Without one nothing is wanted.

        Raises:
            ConfigError: as for :func:`load`.
        """
        if path is None:
            return cls()
        before = stamp(path)
        return cls(load(path), before)


def load(path: Path) -> tuple[WarmEnv, ...]:
    """The entries of a file; blocking.

    Raises:
        ConfigError: it cannot be read, or is not of this form; with the line or the entry.
    """
    whole = _document(path)
    _check(whole, {"envs": list, **_COMMON}, path, "")
    envs = whole.get("envs", [])
    common = {name: whole[name] for name in _COMMON if name in whole}
    return tuple(_env(each, common, path, f"envs[{number}]") for number, each in enumerate(envs))


def stamp(path: Path) -> tuple[int, ...]:
    """What changes when the file does, before and after it is there too; blocking."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _document(path: Path) -> Mapping[str, Any]:
    import tomllib  # noqa: PLC0415 - most daemons have no warm file

    try:
        with path.open("rb") as file:
            about, content = os.fstat(file.fileno()), file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ConfigError(f"the warm file {path} is larger than 16 MiB", "is it the right file?")
        _refuse_others(path, about)
        text = content.decode()
        whole = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"the warm file {path} cannot be read: {error.strerror}",
            "make it readable, or correct `warm_file`",
        ) from None
    except (ValueError, RecursionError) as error:  # both parsers' errors, and what is not UTF-8
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise ConfigError(f"the warm file {path} is not {kind}: {error}", _REMEDY) from None
    if not isinstance(whole, dict):
        raise ConfigError(f"the warm file {path} is no JSON object", 'write {"envs": [{"runtime_env": {…}}]}')
    return whole


def _refuse_others(path: Path, about: os.stat_result) -> None:
    """Who writes the file has packages built as whichever user he names."""
    is_root = os.geteuid() == 0
    if about.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"the warm file {path} belongs to uid {about.st_uid}", f"chown {os.geteuid()} {path}"
        )
    # Many an ordinary user has a group of his own, which may write all that is his.
    if about.st_mode & (0o022 if is_root else 0o002):
        raise ConfigError(f"others may write the warm file {path}", f"chmod go-w {path}")


def _check(table: Mapping[str, Any], known: Mapping[str, type], path: Path, where: str) -> None:
    at = f"{where}: " if where else ""
    for name, value in table.items():
        if name not in known:
            raise ConfigError(
                f"the warm file {path}: {at}{name!r} is not known", f"it may have {', '.join(known)}"
            )
        if not isinstance(value, known[name]):
            raise ConfigError(f"the warm file {path}: {at}{name!r} must be {_KINDS[known[name]]}", _REMEDY)


def _env(table: Any, common: Mapping[str, Any], path: Path, where: str) -> WarmEnv:
    if not isinstance(table, dict):
        raise ConfigError(f"the warm file {path}: {where} must be a table", _REMEDY)
    if isinstance(name := table.get("name"), str):
        where = f"{where} ({name})"
    _check(table, _OF_AN_ENV, path, where)
    if "runtime_env" not in table:
        raise ConfigError(f"the warm file {path}: {where} has no 'runtime_env'", _REMEDY)
    given = {**common, **table}
    python, environment = given.get("python", ""), given.get("environment", {})
    if python and not python.startswith("/"):
        raise ConfigError(f"the warm file {path}: {where}: {python!r} is no absolute path", "write one")
    for variable, value in environment.items():
        if not isinstance(value, str) or not variable or "=" in variable or "\0" in variable + value:
            raise ConfigError(
                f"the warm file {path}: {where}: {variable!r} cannot stand in an environment",
                "make every value of `environment` a string",
            )
    try:
        serialized = json.dumps(table["runtime_env"], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # TOML has dates, and numbers that JSON has not
        raise ConfigError(f"the warm file {path}: {where}: 'runtime_env': {error}", _REMEDY) from None
    wish = Wish(serialized, python, given.get("user", ""), environment, _TIMEOUT)
    return WarmEnv(_title(table, where), wish, given.get("pin", True))


def _title(table: Mapping[str, Any], where: str) -> str:
    """The entry's name, or which fields it has: never values, which may be secret."""
    if table.get("name"):
        return "".join(each if each.isprintable() else "?" for each in table["name"][:_SHOWN])
    return f"{where} ({', '.join(table['runtime_env'])})"[:_SHOWN]
