"""pip's options, told as uv's. What has no exact equivalent is listed for the real pip."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.options import Options, Sources
from ray_envd.agent.python.pip_options import SOURCES
from ray_envd.agent.python.requirements_file import Option

#: The environment's word may stand in either case, and pip's option is above both.
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")
#: What decides only which packages are taken, as uv's arguments.
_RESOLVE = {
    "--no-dependencies": ("--no-deps",),
    "--no-deps": ("--no-deps",),
    "--pre": ("--prerelease", "allow"),
    "--require-hashes": ("--require-hashes",),
}


@dataclass
class _Builder:
    """Collects options in the order in which pip applies them: configuration, command line, files."""

    index_url: str | None = None
    extra_index_urls: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    no_index: bool = False
    resolve: list[str] = field(default_factory=list)
    both: list[str] = field(default_factory=list)
    transport: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    only_pip: list[str] = field(default_factory=list)
    upgrade: bool = False
    eager: bool = False

    def take(self, option: Option, *, from_file: bool = False) -> None:
        """Applies one option that is neither a no-op nor refused."""
        value = option.value or ""
        if option.name in SOURCES:
            self._source(option.name, value, from_file=from_file)
        elif option.name in _RESOLVE:
            words = _RESOLVE[option.name]
            self.resolve += words if words[0] not in self.resolve else ()
        elif option.name in {"--upgrade", "-U"}:
            self.upgrade = True
        elif option.name == "--upgrade-strategy":
            self.eager = value == "eager"
        elif option.name in {"--no-binary", "--only-binary"}:
            self.both += [word for name in value.split(",") for word in (option.name, name)]
        else:
            self._how(option, value)

    def _source(self, name: str, value: str, *, from_file: bool) -> None:
        match name:
            case "--index-url":
                self.index_url = _as_url(value)
                if from_file:  # a file's index stands in place of all others, as in pip
                    self.extra_index_urls.clear()
            case "--extra-index-url":
                self.extra_index_urls.append(_as_url(value))
            case "--find-links":
                self.find_links.append(value)
            case _:
                self.no_index = True

    def _how(self, option: Option, value: str) -> None:
        """Options of how packages are fetched and made."""
        match option.name:
            case "--trusted-host":
                self.transport += ["--allow-insecure-host", value]
            case "--compile":
                self.both.append("--compile-bytecode")
            case "--config-settings" | "-C":
                self.both += ["--config-setting", value]
            case "--cert":
                self.variables["SSL_CERT_FILE"] = value
            case "--client-cert":
                self.variables["SSL_CLIENT_CERT"] = value
            case "--proxy":
                self.variables.update(dict.fromkeys(PROXIES, value))
            case "--timeout" | "--default-timeout":
                self.variables["UV_HTTP_TIMEOUT"] = _number(option.name, value)
            case "--retries":
                self.variables["UV_HTTP_RETRIES"] = _number(option.name, value)
            case _:
                self.only_pip.append(option.name)


def translate(
    on_command: Iterable[Option],
    in_files: Iterable[Option],
    names: Iterable[str | None],
    environment: Mapping[str, str],
    *,
    hashed: bool,
) -> Options:
    """The form that uv understands of pip's options.

    Args:
        on_command: configuration and command line, in this order.
        in_files: those that stand on lines of requirements files.
        names: of the requirements; None for one without a name.
        environment: for certificates that are configured for pip's HTTP library.
        hashed: whether a requirement has a hash: then pip asks one of each.
    """
    builder = _Builder()
    if hashed:
        builder.resolve.append("--require-hashes")
    for option in on_command:
        builder.take(option)
    for option in in_files:
        builder.take(option, from_file=True)
    _upgrade(builder, list(names))
    links, notes = _existing(builder.find_links, environment)
    sources = Sources(builder.index_url, tuple(builder.extra_index_urls), tuple(links), builder.no_index)
    resolve = builder.resolve
    if len(sources.indexes) > 1:  # pip looks at every index and takes the best
        builder.transport += ["--index-strategy", "unsafe-best-match"]
    _trust(builder.variables, environment)
    if any(link.endswith((".html", ".htm")) and "://" not in link for link in links):
        builder.only_pip.append("--find-links with a local page")
    return Options(
        sources=sources,
        resolve=tuple(resolve),
        both=tuple(builder.both),
        transport=tuple(builder.transport),
        variables=builder.variables,
        fresh=builder.upgrade,
        only_pip=tuple(builder.only_pip),
        notes=tuple(notes),
    )


def _upgrade(builder: _Builder, names: list[str | None]) -> None:
    """The real one upgrades what was named, and the rest only if it must; uv has to be told which."""
    if not builder.upgrade:
        return
    if builder.eager:
        builder.resolve.append("--upgrade")
    else:
        for name in names:
            if name is not None:
                builder.resolve += ["--upgrade-package", canonicalize_name(name)]


def _existing(places: list[str], environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Find-links without the local folders that are not there, of which pip too only warns."""
    kept: list[str] = []
    notes: list[str] = []
    for place in places:
        name = place
        if name.startswith("~/"):
            name = environment.get("HOME", "") + name[1:]
        local = (
            Path(name.removeprefix("file://")) if "://" not in name or name.startswith("file://") else None
        )
        if local is None or local.exists():
            kept.append(name if local is None else str(local))
        else:
            notes.append(f"find-links {local} does not exist")
    return kept, notes


def _number(name: str, value: str) -> str:
    try:
        return str(max(0, round(float(value))))
    except ValueError:
        raise InvalidSpecError(
            f"{name} is {value!r}", field="pip", remedy=f"give {name} a number of seconds or attempts"
        ) from None


def _as_url(value: str) -> str:
    return Path(value).as_uri() if value.startswith("/") else value


def _trust(variables: dict[str, str], environment: Mapping[str, str]) -> None:
    """Certificates: pip's own setting, else its HTTP library's, else (as pip since 24.2) the system's."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if environment.get(name):
            variables.setdefault("SSL_CERT_FILE", environment[name])
    if "SSL_CERT_FILE" not in variables and not environment.get("SSL_CERT_FILE"):
        variables.update(UV_SYSTEM_CERTS="true")
