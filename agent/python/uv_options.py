"""Options of ``uv pip install`` in the uv field: passed on as they are, except where a table here says how.

Index addresses may hold credentials, and every user of a machine can read an argument vector: they go
by uv's own environment variables.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.options import Options, Sources
from ray_envd.agent.python.requirements_file import Option, split_options
from ray_envd.agent.redaction import redact_urls

#: Without effect here; whether a value follows.
NO_OPS: Mapping[str, bool] = {
    "--break-system-packages": False,  # the environment is not the system's
    "--color": True,
    "--link-mode": True,  # the store decides how files are linked
    "--no-break-system-packages": False,
    "--no-cache": False,  # stock's default; the store's cache is checked by uv
    "--no-managed-python": False,  # the interpreter is the raylet's
    "--managed-python": False,
    "--no-progress": False,
    "--no-python-downloads": False,
    "--output-format": True,
    "--quiet": False,
    "--strict": False,  # only prints warnings; uv_check is the one that fails
    "--verbose": False,
    "-n": False,
    "-q": False,
    "-v": False,
}
#: What would install elsewhere, or not at all, or is another command's.
REFUSED: Mapping[str, bool] = {
    "--cache-dir": True,
    "--check": False,
    "--config-file": True,
    "--directory": True,
    "--dry-run": False,
    "--help": False,
    "--prefix": True,
    "--project": True,
    "--python": True,
    "--system": False,
    "--target": True,
    "--user": False,
    "--version": False,
    "-V": False,
    "-h": False,
    "-p": True,
    "-t": True,
}
#: Where packages come from: by environment variable, with what separates several values.
_SOURCES: Mapping[str, tuple[str, str]] = {
    "--default-index": ("UV_DEFAULT_INDEX", ""),
    "--extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "--find-links": ("UV_FIND_LINKS", ","),
    "--index": ("UV_INDEX", " "),
    "--index-url": ("UV_INDEX_URL", ""),
}
#: What decides only which packages are taken.
_RESOLVE: Mapping[str, bool] = {
    "--all-extras": False,
    "--exact": False,
    "--exclude-newer": True,
    "--exclude-newer-package": True,
    "--excludes": True,
    "--extra": True,
    "--fork-strategy": True,
    "--group": True,
    "--no-deps": False,
    "--overrides": True,
    "--override": True,
    "--prerelease": True,
    "--prerelease-package": True,
    "--pre": False,
    "--refresh": False,
    "--refresh-package": True,
    "--reinstall": False,
    "--reinstall-package": True,
    "--require-hashes": False,
    "--resolution": True,
    "--upgrade": False,
    "--upgrade-group": True,
    "--upgrade-package": True,
    "-P": True,
    "-U": False,
}
#: What also decides how a wheel is fetched or made.
_BOTH: Mapping[str, bool] = {
    "--build-constraints": True,
    "--build-constraint": True,
    "--compile-bytecode": False,
    "--config-setting": True,
    "--config-settings": True,
    "--config-settings-package": True,
    "--no-binary": True,
    "--no-build": False,
    "--no-build-isolation": False,
    "--no-build-isolation-package": True,
    "--no-editable": False,
    "--no-editable-package": True,
    "--no-sources": False,
    "--no-sources-package": True,
    "--no-verify-hashes": False,
    "--only-binary": True,
    "--python-platform": True,
    "--python-version": True,
    "--require-build-hashes": False,
    "--torch-backend": True,
    "-C": True,
    "-b": True,
}
#: What changes only how packages are fetched.
_TRANSPORT: Mapping[str, bool] = {
    "--allow-insecure-host": True,
    "--cert": True,
    "--index-strategy": True,
    "--keyring-provider": True,
    "--native-tls": False,
    "--no-config": False,
    "--no-index": False,
    "--offline": False,
    "--system-certs": False,
    "--trusted-host": True,
}
_FILES: Mapping[str, bool] = {"--requirement": True, "--constraint": True, "--editable": True}
_BUILD_SETTINGS = {"--config-setting", "--config-settings", "--config-settings-package", "-C"}
_FRESH = {
    "--refresh",
    "--refresh-package",
    "--reinstall",
    "--reinstall-package",
    "--upgrade",
    "--upgrade-group",
    "--upgrade-package",
    "-P",
    "-U",
}
_KNOWN = {**_BOTH, **_TRANSPORT, **_RESOLVE, **dict.fromkeys(_SOURCES, True), **NO_OPS, **REFUSED, **_FILES}
#: Of uv's own variables, those that would undo what the daemon decides.
_DROPPED = {
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_CACHE_DIR",
    "UV_CONFIG_FILE",
    "UV_LINK_MODE",
    "UV_NO_CACHE",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_WORKING_DIR",
}


def parse_options(words: Sequence[str], expanded: AbstractSet[str] = frozenset()) -> list[Option]:
    """The options of a command line, each with its value; no-ops are gone.

    Args:
        words: as the user wrote them, variables expanded.
        expanded: the values of those variables, which may be secret.

    Raises:
        InvalidSpecError: one would install elsewhere, or show a secret to every user.
    """
    options = split_options(words, _KNOWN)
    for option in options:
        name, value = option.name.partition("=")[0], option.value or ""
        if name in REFUSED:
            _refuse(f"{name} would not install into the worker's environment", "leave it out")
        shown = name in _BUILD_SETTINGS and any(secret in value for secret in expanded if secret)
        if name not in _SOURCES and (shown or any(redact_urls(word) != word for word in option.words())):
            _refuse(
                f"{name or 'an option'} would show a credential in the process list",
                "give it by an index option, an environment variable of uv, or netrc",
            )
    return [option for option in options if option.name not in NO_OPS]


def translate(
    options: Sequence[Option], in_files: Sequence[Option], environment: Mapping[str, str]
) -> Options:
    """What uv is called with.

    Args:
        options: of :func:`parse_options`.
        in_files: those that stand on lines of requirements files; they stay there.
        environment: complete; uv's own variables count where no option overrides them.
    """
    variables = {name: value for name, value in environment.items() if _is_kept(name)}
    given: dict[str, list[str]] = {}
    for option in options:
        if option.name in _SOURCES:
            given.setdefault(option.name, []).append(option.value or "")
    for name, values in given.items():
        variable, separator = _SOURCES[name]
        variables[variable] = separator.join(values) if separator else values[-1]
    resolve = [word for o in options if o.name in _RESOLVE for word in _words(o)]
    both = [word for o in options if o.name in _BOTH or o.name not in _KNOWN for word in _words(o)]
    transport = [word for o in options if o.name in _TRANSPORT for word in _words(o)]
    return Options(
        sources=_sources(variables, in_files, no_index="--no-index" in transport),
        resolve=tuple(resolve),
        both=tuple(both),
        transport=tuple(transport),
        variables=variables,
        fresh=any(option.name in _FRESH for option in options),
    )


def configuration_files(environment: Mapping[str, str]) -> list[Path]:
    """The configuration files of uv that hold for the uv field."""
    home = Path(environment.get("HOME", "/"))
    user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    system = [Path(folder) for folder in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    return [folder / "uv/uv.toml" for folder in (user, *system, Path("/etc"))]


def _is_kept(name: str) -> bool:
    return name.startswith("UV_") and name not in _DROPPED


def _words(option: Option) -> list[str]:
    if not option.name:  # a word that belongs to no option: uv says so itself
        return [option.value or ""]
    if option.value is None:
        return [option.name]
    return [option.name, option.value]


def _sources(variables: Mapping[str, str], in_files: Sequence[Option], *, no_index: bool) -> Sources:
    """Where packages come from, for keys and for the choice between offline and online."""
    default = variables.get("UV_DEFAULT_INDEX") or variables.get("UV_INDEX_URL")
    extra = [*variables.get("UV_INDEX", "").split(), *variables.get("UV_EXTRA_INDEX_URL", "").split()]
    links = [place for place in variables.get("UV_FIND_LINKS", "").split(",") if place]
    for option in in_files:
        match option.name:
            case "--index-url":
                default = default or option.value
            case "--extra-index-url":
                extra.append(option.value or "")
            case "--find-links":
                links.append(option.value or "")
            case "--no-index":
                no_index = True
            case _:
                pass
    return Sources(default, tuple(extra), tuple(links), no_index)


def _refuse(cause: str, remedy: str) -> None:
    raise InvalidSpecError(cause, field="uv", remedy=remedy)
