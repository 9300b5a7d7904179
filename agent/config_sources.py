"""Where settings come from: flags, then ``RAY_ENVD_*`` variables, then the TOML file, then defaults."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent.config import TABLE, ConfigError, Setting, Settings
from ray_envd.agent.config_kinds import OPTIONAL_PATH, PATH, PROGRAM, SWITCH, is_loopback
from ray_envd.cache.text import bytes_text

CONFIG_VARIABLE = "RAY_ENVD_CONFIG"
_PREFIX = "RAY_ENVD_"
#: sockaddr_un.sun_path with its final NUL (unix(7)).
_SUN_PATH = 108
#: The longest path made of the socket's: ``.NAME.12345678/grpc`` beside it, gRPC's own socket.
_LONGEST_SUFFIX = len("..12345678/grpc")
#: Bytes that the path of ``socket`` may have.
LONGEST_SOCKET = _SUN_PATH - 1 - _LONGEST_SUFFIX


@dataclass(frozen=True, slots=True)
class Value:
    """One setting's value.

    Attributes:
        value: parsed.
        text: as it was written.
        source: ``flag``, ``variable``, ``file`` or ``default``.
        where: the flag, the variable, or file and key; empty for a default.
    """

    value: Any
    text: str
    source: str
    where: str = ""

    @property
    def origin(self) -> str:
        """For people."""
        return self.where or "default"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and how they came about.

    Attributes:
        settings: the effective ones, checked.
        values: by setting, in the order of the table.
        config: the TOML file that was read.
        explicit_config: that file was named and not found by its usual place.
        warnings: what looks wrong and does no harm.
    """

    settings: Settings
    values: Mapping[str, Value]
    config: Path | None
    explicit_config: bool
    warnings: tuple[str, ...]


def load(
    flags: Mapping[str, str] | None = None,
    *,
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
    root: bool | None = None,
) -> Loaded:
    """Reads, parses and checks every setting; blocking (a file or two).

    Args:
        flags: setting -> text, of those that were given.
        config: path of the TOML file; None: ``RAY_ENVD_CONFIG``, else the usual place if a file is there.
        environ: the environment; None: this process's.
        root: whether this is root's daemon, which has other defaults; None: ask the system.

    Raises:
        ConfigError: with the setting, the value, where it came from and the remedy.
    """
    environ = os.environ if environ is None else environ
    root = os.geteuid() == 0 if root is None else root
    named = config or environ.get(CONFIG_VARIABLE) or None
    path, file_values = _read_file(named, _usual_file(environ, root=root))
    values: dict[str, Value] = {}
    for name, setting in TABLE.items():
        value = (
            _from_flag(setting, flags or {})
            or _from_variable(setting, environ)
            or file_values.get(name)
            or _default(setting, environ, values, root=root)
        )
        values[name] = value
    settings = Settings(**{name: value.value for name, value in values.items()})
    _check(settings, values)
    return Loaded(settings, values, path, bool(named), _unknown_variables(environ))


# the sources


def _parsed(setting: Setting, text: str, source: str, where: str) -> Value:
    try:
        return Value(setting.kind.parse(text), text, source, where)
    except ValueError as error:
        raise ConfigError(f"{setting.name} is {text!r} ({where}): {error}", setting.kind.remedy) from None


def _from_flag(setting: Setting, flags: Mapping[str, str]) -> Value | None:
    text = flags.get(setting.name)
    return None if text is None else _parsed(setting, text, "flag", setting.flag)


def _from_variable(setting: Setting, environ: Mapping[str, str]) -> Value | None:
    # An empty variable is as good as none: unit files and images cannot take one away.
    text = environ.get(setting.variable)
    return _parsed(setting, text, "variable", setting.variable) if text else None


def _usual_file(environ: Mapping[str, str], *, root: bool) -> Path:
    if root:
        return Path("/etc/ray-envd/config.toml")
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")  # noqa: PTH118 - text, as the variables are
    return Path(base) / "ray-envd" / "config.toml"


def _read_file(named: str | None, usual: Path) -> tuple[Path | None, dict[str, Value]]:
    path = Path(named).expanduser().absolute() if named else usual
    try:
        document = _document(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if not named:
            return None, {}
        raise ConfigError(
            f"there is no config file {path}", f"make it, or correct --config or {CONFIG_VARIABLE}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"the config file {path} cannot be read: {error.strerror}", "make it readable"
        ) from None
    except ValueError as error:  # the parser's, or what is not UTF-8
        raise ConfigError(
            f"the config file {path} is not TOML: {error}", 'write lines such as store = "/data"'
        ) from None
    return path, {key: _from_file(path, key, value) for key, value in document.items()}


def _document(text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most daemons have no file

    return tomllib.loads(text)


def _from_file(path: Path, key: str, value: Any) -> Value:
    where = f"{path}: {key}"
    setting = TABLE.get(key)
    if setting is None:
        raise ConfigError(f"there is no setting {key!r} ({where})", _did_you_mean(key, TABLE))
    if isinstance(value, bool) != (setting.kind is SWITCH) or not isinstance(value, str | int | float):
        raise ConfigError(f"{key} is {value!r} ({where}): it is of the wrong type", setting.kind.remedy)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    parsed = _parsed(setting, text, "file", where)
    if setting.kind in {PATH, OPTIONAL_PATH, PROGRAM} and parsed.value and not text.startswith(("/", "~")):
        raise ConfigError(f"{key} is {text!r} ({where}): it is a relative path", PATH.remedy)
    return parsed


def _default(
    setting: Setting, environ: Mapping[str, str], before: Mapping[str, Value], *, root: bool
) -> Value:
    if setting.name == "store":
        text = str(_default_store(environ, root=root))
    elif setting.name == "socket":
        text = str(_default_socket(environ, before["store"].value, root=root))
    else:
        text = setting.default
    return Value(setting.kind.parse(text), text, "default")


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - text, like the variable


def _default_store(environ: Mapping[str, str], *, root: bool) -> Path:
    if root:
        return Path("/var/lib/ray-envd")
    base = environ.get("XDG_STATE_HOME") or os.path.join(_home(environ), ".local", "state")  # noqa: PTH118 - text, as the variables are
    return Path(base) / "ray-envd"


def _default_socket(environ: Mapping[str, str], store: Path, *, root: bool) -> Path:
    if root:
        return Path("/run/ray-envd/ray-envd.sock")
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "ray-envd" / "ray-envd.sock"
    return store / "run" / "ray-envd.sock"


# checks of more than one setting


def _check(settings: Settings, values: Mapping[str, Value]) -> None:
    _check_socket(settings, values)
    _check_addresses(settings, values)
    _check_watermarks(settings, values)
    if settings.ready_when_warm and settings.warm_file is None:
        raise _wrong(
            values,
            "ready_when_warm",
            "there is nothing to wait for",
            f"name a file with {TABLE['warm_file'].flag}",
        )


def _wrong(values: Mapping[str, Value], name: str, reason: str, remedy: str) -> ConfigError:
    value = values[name]
    return ConfigError(f"{name} is {value.text!r} ({value.origin}): {reason}", remedy)


def _check_socket(settings: Settings, values: Mapping[str, Value]) -> None:
    length = len(os.fsencode(settings.socket))
    if length > LONGEST_SOCKET:
        raise _wrong(
            values,
            "socket",
            f"the path has {length} bytes, and the sockets beside it leave room for {LONGEST_SOCKET}",
            f"set {TABLE['socket'].flag} or {TABLE['socket'].variable} to a path below /run or /tmp",
        )


def _check_addresses(settings: Settings, values: Mapping[str, Value]) -> None:
    if settings.http is not None and not settings.http_allow_remote and not is_loopback(settings.http[0]):
        raise _wrong(
            values,
            "http",
            "other machines can reach it",
            f"use 127.0.0.1, or allow it with {TABLE['http_allow_remote'].flag}",
        )
    if settings.tcp is not None and settings.tcp_token_file is None:
        raise _wrong(
            values,
            "tcp",
            "callers must be known by a token",
            f"name its file with {TABLE['tcp_token_file'].flag}",
        )


def _check_watermarks(settings: Settings, values: Mapping[str, Value]) -> None:
    """In bytes: what is written as a size and what as a percentage may only cross on this disk."""
    limit, high, low = settings.budget_bytes, settings.high_bytes, settings.low_bytes
    if limit <= 0:
        raise _wrong(values, "max_bytes", "nothing could be stored", TABLE["max_bytes"].kind.remedy)
    if high > limit:
        raise _wrong(
            values,
            "high_watermark",
            f"it is {bytes_text(high)} here, more than max_bytes, {bytes_text(limit)}",
            "lower it, or raise max_bytes",
        )
    if low > high:
        origin = values["high_watermark"].origin
        raise _wrong(
            values,
            "low_watermark",
            f"it is {bytes_text(low)} here, above high_watermark, {bytes_text(high)} ({origin})",
            "make low_watermark at most high_watermark",
        )
    if settings.min_free_bytes >= settings.disk_bytes:
        raise _wrong(values, "min_free", "it is the whole disk or more", TABLE["min_free"].kind.remedy)


# what nobody knows


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 - only where something is misspelt

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "`ray-envd config` lists every setting"


def _unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    known = {setting.variable for setting in TABLE.values()} | {CONFIG_VARIABLE}
    return tuple(
        f"the variable {name} is no setting: {_did_you_mean(name, sorted(known))}"
        for name in sorted(environ)
        if name.startswith(_PREFIX) and name not in known
    )


def reference_table() -> str:
    """Every setting as a table in Markdown, for the README."""
    lines = ["| key and flag | variable | value | default | meaning |", "| --- | --- | --- | --- | --- |"]
    lines.extend(
        f"| `{s.name}` `{s.flag}` | `{s.variable}` | {s.kind.name} | {s.default_shown} | {s.help} |"
        for s in TABLE.values()
    )
    return "\n".join(lines)
