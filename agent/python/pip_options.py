"""The options of ``pip install``.

Every one of them is: without effect on what is installed (:data:`NO_OPS`), refused because it would install
elsewhere (:data:`REFUSED`), translated to what means the same to uv (:mod:`.pip_translation`), or left to
the real pip, which then does the whole work. Nothing is ignored without standing in a table here.
"""

from collections.abc import Mapping, Sequence

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.requirements_file import FILE_OPTIONS, Option, split_options
from ray_envd.agent.redaction import redact_urls

#: What concerns only pip's own output, prompts, cache or habits; whether a value follows.
NO_OPS: Mapping[str, bool] = {
    "--break-system-packages": False,  # the environment is not the system's
    "--cache-dir": True,  # the store has one cache; where it lies does not change what is installed
    "--debug": False,
    "--disable-pip-version-check": False,
    "--no-cache": False,
    "--no-cache-dir": False,  # stock's default; uv checks what it caches
    "--no-clean": False,
    "--no-color": False,
    "--no-compile": False,  # uv compiles nothing unless told to
    "--no-input": False,  # there is nobody to ask
    "--no-python-version-warning": False,
    "--no-warn-conflicts": False,
    "--no-warn-script-location": False,
    "--progress-bar": True,
    "--quiet": False,
    "--require-virtualenv": False,  # it is one
    "--root-user-action": True,
    "--use-pep517": False,  # uv knows no other way
    "--verbose": False,
    "-q": False,
    "-qq": False,
    "-qqq": False,
    "-v": False,
    "-vv": False,
    "-vvv": False,
}
#: What would install elsewhere, or not at all.
REFUSED: Mapping[str, bool] = {
    "--dry-run": False,
    "--help": False,
    "--prefix": True,
    "--python": True,
    "--root": True,
    "--src": True,
    "--target": True,
    "--user": False,
    "--version": False,
    "-h": False,
    "-t": True,
    "-V": False,
}
#: What has an exact equivalent.
_TRANSLATED: Mapping[str, bool] = {
    **FILE_OPTIONS,
    "--cert": True,
    "--client-cert": True,
    "--compile": False,
    "--config-settings": True,
    "--default-timeout": True,
    "--no-deps": False,
    "--no-dependencies": False,
    "--proxy": True,
    "--retries": True,
    "--timeout": True,
    "--upgrade": False,
    "--upgrade-strategy": True,
    "-C": True,
    "-U": False,
}
#: Where packages come from. Values may hold credentials.
SOURCES = {"--index-url", "--extra-index-url", "--find-links", "--no-index"}
_KNOWN = {**_TRANSLATED, **NO_OPS, **REFUSED}
_FALSE = {"0", "f", "false", "n", "no", "off"}
_LISTS = {"--extra-index-url", "--find-links", "--trusted-host", "--constraint", "--requirement"}


def parse_options(words: Sequence[str]) -> list[Option]:
    """The options of a command line, each with its value; no-ops are gone.

    Raises:
        InvalidSpecError: one would install elsewhere, or show a secret to every user.
    """
    options = split_options(words, _KNOWN)
    for option in options:
        _check(option.name, "pip_install_options")
        if option.name not in {*SOURCES, "--proxy"} and any(redact_urls(w) != w for w in option.words()):
            raise InvalidSpecError(
                f"{option.name.partition('=')[0] or 'an option'} would show a credential in the process list",
                field="pip",
                remedy="give it by an index option, an environment variable of pip, or netrc",
            )
    return [option for option in options if option.name not in NO_OPS]


def words_for_pip(words: Sequence[str]) -> list[str]:
    """What of a command line is given to the real pip as it is.

    The rest reaches it by its environment (addresses, which may hold credentials) or by files
    (requirements, constraints).
    """
    elsewhere = {*SOURCES, "--proxy", "--requirement", "--constraint", "--editable"}
    options = split_options(words, _KNOWN)
    kept: list[str] = []
    for position, option in enumerate(options):
        if option.name == "" and (position == 0 or options[position - 1].known):
            continue  # a requirement
        if option.name not in elsewhere:
            kept += [word for word in (option.name, option.value) if word]
    return kept


def configured(configuration: Mapping[str, str]) -> list[Option]:
    """The options that pip's configuration (:mod:`.pip_config`) amounts to.

    Raises:
        InvalidSpecError: one would install elsewhere.
    """
    options: list[Option] = []
    for name, value in configuration.items():
        long = f"--{name}"
        switched_off = value.strip().lower() in _FALSE
        if long in NO_OPS or (long not in NO_OPS and not _KNOWN.get(long, True) and switched_off):
            continue
        if not (long in REFUSED and switched_off):
            _check(long, "pip's configuration on this node")
        if long in _LISTS:
            options += [Option(long, part) for part in value.split()]
        else:
            options.append(Option(long, value if _KNOWN.get(long, True) else None))
    return options


def _check(name: str, where: str) -> None:
    """Refuses what installs elsewhere, also if abbreviated, which pip allows."""
    refused = name in REFUSED or (
        name.startswith("--")
        and name not in _KNOWN
        and any(long.startswith(name.partition("=")[0]) for long in REFUSED if long.startswith("--"))
    )
    if refused:
        raise InvalidSpecError(
            f"{name.partition('=')[0]} in {where} would not install into the worker's environment",
            field="pip",
            remedy="leave it out",
        )
