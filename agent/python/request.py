"""A field, read to the end on this node: files, variables, configuration and options, ready for a tool.

Everything that decides what a spec means stands in a :class:`Request`; its digest is the first of the
two levels of keys.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import InvalidVersion, Version

from ray_envd.agent.python import pip_config, pip_options, pip_translation, uv_options
from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.options import Options
from ray_envd.agent.python.requirements import Requirement
from ray_envd.agent.python.requirements_file import Contents, Option, Reader
from ray_envd.agent.python.spec import Field, PackagesSpec
from ray_envd.agent.redaction import secrets_in_urls
from ray_envd.cache.owner import Owner, acting_as

Engine = Literal["uv", "pip"]


@dataclass(frozen=True)
class Request:
    """What is asked for. Texts in it may hold credentials: it is never written down or logged.

    Attributes:
        engine: who does the work; ``pip`` where only the real pip understands the spec.
        file_options: option lines of requirements files that uv reads itself (uv field).
        pip_words: the options that the real pip is given, as the user wrote them.
        configuration: the texts of uv's configuration files (uv field).
        places: local folders of packages and when each was changed.
        secrets: what must not appear in any output.
    """

    field: Field
    engine: Engine
    requirements: tuple[Requirement, ...]
    constraints: tuple[Requirement, ...]
    remote_files: tuple[Option, ...]
    options: Options
    file_options: tuple[Option, ...]
    pip_words: tuple[str, ...]
    configuration: tuple[str, ...]
    places: tuple[str, ...]
    check: bool
    tool_version: str | None
    secrets: frozenset[str]

    @property
    def local_files(self) -> list[Path]:
        """Local archives and folders that are installed; their content must enter the key.

        Nested requirements and constraints files are not among them: their lines are in the digest.
        """
        return [r.local for r in (*self.requirements, *self.constraints) if r.local is not None]

    @property
    def is_pinned(self) -> bool:
        """Whether its resolution never has to be done again.

        It is pinned if every requirement is exact: ``==`` or ``===`` with a full version (itself or by a
        constraint), a URL with a hash or a full commit, or local content. What these depend on in turn may
        be unpinned; that is frozen with them at the first resolution, which is what a user who pins expects
        and what a lock file does. Without an exact top level the resolution expires.
        """
        if self.remote_files or self.options.fresh:
            return False
        constrained = {r.name for r in self.constraints if r.exact}
        return all(r.exact or (r.name is not None and r.name in constrained) for r in self.requirements)

    def digest(self, interpreter: Interpreter, file_digests: Mapping[Path, str]) -> str:
        """The request's key, the same for every spelling of it and for both fields if they mean the same.

        Args:
            interpreter: on which the environment is put.
            file_digests: content digests of :attr:`local_files`.
        """
        options = self.options
        facts = [
            "request-v1",
            interpreter.digest,
            self.engine,
            self.tool_version if self.engine == "pip" or self.field == "uv" else None,
            sorted(r.identity(file_digests) for r in self.requirements),
            sorted(r.identity(file_digests) for r in self.constraints),
            [str(option) for option in self.remote_files],
            [options.sources.index_url, options.sources.extra_index_urls, options.sources.find_links],
            [
                options.sources.no_index,
                options.resolve,
                options.both,
                options.transport,
                self.pip_words,
                self.configuration,
                self.places,
            ],
            [str(option) for option in self.file_options],
            sorted(item for item in options.variables.items() if item[0] not in _TRANSPORT),
            self.check,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


#: How packages are fetched, not which.
_TRANSPORT = {
    *pip_translation.PROXIES,
    "SSL_CERT_FILE",
    "SSL_CLIENT_CERT",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_SYSTEM_CERTS",
}


async def read(
    spec: PackagesSpec, interpreter: Interpreter, *, environment: Mapping[str, str], owner: Owner
) -> Request:
    """Reads the spec with the owner's rights; some 0.3 ms.

    Args:
        spec: the field.
        interpreter: the raylet's.
        environment: complete: the raylet's, the user's env_vars over it, and
            ``RAY_RUNTIME_ENV_CREATE_WORKING_DIR`` where the spec needs it.
        owner: whose files and configuration are read.

    Raises:
        InvalidSpecError: a line, an option or a file that it names is wrong.
    """
    return await asyncio.to_thread(_read, spec, interpreter, environment, owner)


def _read(
    spec: PackagesSpec, interpreter: Interpreter, environment: Mapping[str, str], owner: Owner
) -> Request:
    reader = Reader(spec.field, environment)
    with acting_as(owner):
        reader.read(spec.requirements)
        if spec.field == "pip":
            return _pip(spec, interpreter, reader, environment)
        return _uv(spec, reader, environment)


def _pip(
    spec: PackagesSpec, interpreter: Interpreter, reader: Reader, environment: Mapping[str, str]
) -> Request:
    contents = reader.contents
    configured = pip_options.configured(pip_config.read(interpreter, environment))
    given = pip_options.parse_options(spec.options)
    on_command = _include(reader, [*configured, *given])
    options = pip_translation.translate(
        on_command,
        contents.options,
        [requirement.name for requirement in contents.requirements],
        environment,
        hashed=any(requirement.hashes for requirement in contents.requirements),
    )
    by_pip = spec.tool_version is not None or options.only_pip or _has_line_options(contents)
    if not by_pip:
        return _request(spec, "uv", contents, options)
    return _request(
        spec, "pip", contents, options, file_options=tuple(contents.options), pip_words=spec.options
    )


def _uv(spec: PackagesSpec, reader: Reader, environment: Mapping[str, str]) -> Request:
    contents = reader.contents
    words = [reader.expand_uv(word) for word in spec.options]
    given = _include(reader, uv_options.parse_options(words, contents.expanded))
    options = uv_options.translate(given, contents.options, environment)
    configuration = tuple(
        path.read_text() for path in uv_options.configuration_files(environment) if path.is_file()
    )
    return _request(
        spec,
        "uv",
        contents,
        options,
        file_options=tuple(contents.options),
        configuration=() if "--no-config" in options.transport else configuration,
    )


def _include(reader: Reader, options: Sequence[Option]) -> list[Option]:
    """Reads what a command line names: files, editables, requirements; returns the other options."""
    contents, rest = reader.contents, []
    for position, option in enumerate(options):
        match option.name:
            case "--requirement":
                reader.include(option, None, contents.requirements)
            case "--constraint":
                reader.include(option, None, contents.constraints)
            case "--editable":
                reader.editable(option.value or "", None, contents.requirements)
            case "" if position == 0 or options[position - 1].known:
                contents.requirements.append(reader.requirement(option.value or "", None))
            case _:
                rest.append(option)
    return rest


def _has_line_options(contents: Contents) -> bool:
    return any(requirement.options for requirement in contents.requirements)


def _request(
    spec: PackagesSpec,
    engine: Engine,
    contents: Contents,
    options: Options,
    *,
    file_options: tuple[Option, ...] = (),
    pip_words: tuple[str, ...] = (),
    configuration: tuple[str, ...] = (),
) -> Request:
    return Request(
        field=spec.field,
        engine=engine,
        requirements=tuple(contents.requirements),
        constraints=tuple(contents.constraints),
        remote_files=tuple(contents.remote),
        options=options,
        file_options=file_options,
        pip_words=pip_words,
        configuration=configuration,
        places=tuple(options.sources.local_state()),
        check=spec.check,
        tool_version=spec.tool_version,
        secrets=_secrets(spec, contents, options),
    )


def _secrets(spec: PackagesSpec, contents: Contents, options: Options) -> frozenset[str]:
    texts = [r.text for r in (*contents.requirements, *contents.constraints)]
    texts += [*options.sources.lines(), *options.variables.values(), *spec.options]
    secrets = {secret for text in texts for secret in secrets_in_urls(text)}
    secrets |= {value for name, value in options.variables.items() if name.endswith(("_PASSWORD", "_TOKEN"))}
    # Expanded versions and paths are what a user must read in an error.
    secrets |= {text for text in contents.expanded if not text.startswith("/") and not _is_version(text)}
    return frozenset(secrets)


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
