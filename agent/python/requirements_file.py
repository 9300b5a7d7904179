"""The requirements-file format, as pip reads it (``pip/_internal/req/req_file.py``).

A field's requirements are lines of such a file. They are read here once, nested files included, into one
flat list: what enters a key, what the tools get, and what is checked are then the same thing.
"""

import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.requirements import Requirement, local_path, parse
from ray_envd.agent.python.spec import WORKING_DIR_VARIABLE, Field
from ray_envd.agent.redaction import redact_urls

#: Options that may stand on a line of their own, and whether a value follows.
FILE_OPTIONS: Mapping[str, bool] = {
    "--constraint": True,
    "--editable": True,
    "--extra-index-url": True,
    "--find-links": True,
    "--index-url": True,
    "--no-binary": True,
    "--no-index": False,
    "--only-binary": True,
    "--pre": False,
    "--prefer-binary": False,
    "--require-hashes": False,
    "--requirement": True,
    "--trusted-host": True,
    "--use-feature": True,
}
SHORT_OPTIONS: Mapping[str, str] = {
    "-c": "--constraint",
    "-e": "--editable",
    "-f": "--find-links",
    "-i": "--index-url",
    "-r": "--requirement",
}
_ALIASES = {"--requirements": "--requirement", "--constraints": "--constraint"}

_COMMENT = re.compile(r"(^|\s+)#.*$")
_PIP_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)\}")
_UV_VARIABLE = re.compile(r"\$(?:(?P<name>\w+)|\{(?P<braced>[^}]*)\})", re.ASCII)
_FILE_REMEDY = (
    f"name a file that is on every node, or one of the working_dir as ${{{WORKING_DIR_VARIABLE}}}/..."
)
_LARGEST = 4 << 20  # bytes: more is not a requirements file


@dataclass(frozen=True, slots=True)
class Option:
    """An option with its value; ``name`` is its long name, or what was written if nobody knows it."""

    name: str
    value: str | None = None
    known: bool = True

    def words(self) -> list[str]:
        """As an argument vector takes it."""
        return [self.name] if self.value is None else [f"{self.name}={self.value}"]


@dataclass
class Contents:
    """A requirements file, flat.

    Attributes:
        options: option lines in their order, without those below.
        remote: ``-r``/``-c`` of files on other machines, which only the tool can read.
        expanded: values of the variables that were expanded: they may be secrets.
    """

    requirements: list[Requirement] = field(default_factory=list)
    constraints: list[Requirement] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    remote: list[Option] = field(default_factory=list)
    expanded: set[str] = field(default_factory=set)


class Reader:
    """Reads requirement lines into :class:`Contents`; blocking, with the rights of the calling thread."""

    def __init__(self, field_name: Field, environment: Mapping[str, str]) -> None:
        """The environment is for the variables that lines may name."""
        self.contents = Contents()
        self._field = field_name
        self._environment = environment
        self._open: list[Path] = []

    def read(self, packages: Sequence[str]) -> None:
        """Reads the lines of a field.

        Raises:
            InvalidSpecError: a line is no requirement, or a file that it names cannot be read.
        """
        expand = self.expand_uv if self._field == "uv" else self._expand_pip
        self._lines("\n".join(packages), None, expand, self.contents.requirements)

    def include(self, option: Option, base: Path | None, into: list[Requirement]) -> None:
        """Reads the file that a ``-r`` or ``-c`` names."""
        name = option.value or ""
        if "://" in name and not name.startswith("file:"):
            self.contents.remote.append(option)
            return
        path = local_path(name) or Path(name)
        if not path.is_absolute():
            if base is None:
                self._refuse(f"{option.name} {name} is a relative path, which names nothing on the node")
            path = base / path
        if path in self._open:
            self._refuse(f"the file {path} includes itself")
        self._open.append(path)
        self._lines(self._text(path), path.parent, self._expand_pip, into)
        self._open.pop()

    def expand_uv(self, text: str) -> str:
        """Expands ``$NAME`` and ``${NAME}`` as stock does for the uv field."""
        return _UV_VARIABLE.sub(
            lambda m: self._value(m["name"] or m["braced"] or "", m.group(), empty=True), text
        )

    def _expand_pip(self, text: str) -> str:
        return _PIP_VARIABLE.sub(lambda m: self._value(m["name"], m.group(), empty=False), text)

    def _value(self, name: str, otherwise: str, *, empty: bool) -> str:
        value = self._environment.get(name)
        if value is None or (not value and not empty):
            return otherwise
        if name != WORKING_DIR_VARIABLE:
            self.contents.expanded.add(value)
        return value

    def _lines(
        self, text: str, base: Path | None, expand: Callable[[str], str], into: list[Requirement]
    ) -> None:
        for raw in _joined(text):
            line = expand(_COMMENT.sub("", raw).strip())
            if not line:
                continue
            if line.startswith("-"):
                self._option_line(line, base, into)
            else:
                self._requirement_line(line, base, into)

    def _option_line(self, line: str, base: Path | None, into: list[Requirement]) -> None:
        for option in split_options(self._words(line), FILE_OPTIONS):
            if option.name in {"--requirement", "--constraint"}:
                nested = self.contents.constraints if option.name == "--constraint" else into
                self.include(option, base, nested)
            elif option.name == "--editable":
                self.editable(option.value or "", base, into)
            elif option.name == "--find-links" and base and (base / (option.value or "")).exists():
                self.contents.options.append(Option(option.name, str(base / (option.value or ""))))
            else:
                self.contents.options.append(option)

    def _requirement_line(self, line: str, base: Path | None, into: list[Requirement]) -> None:
        words = line.split(" ")
        count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        options = split_options(
            self._words(" ".join(words[count:])),
            {"--hash": True, "--config-settings": True, "--config-setting": True, "--global-option": True},
        )
        requirement = self.requirement(" ".join(words[:count]).strip(), base)
        hashes = tuple(option.value or "" for option in options if option.name == "--hash")
        others = tuple(word for option in options if option.name != "--hash" for word in option.words())
        into.append(
            replace(
                requirement,
                hashes=hashes,
                options=others,
                exact=requirement.exact or (requirement.url is not None and bool(hashes)),
            )
        )

    def editable(self, text: str, base: Path | None, into: list[Requirement]) -> None:
        """The requirement of a ``-e``."""
        into.append(replace(self.requirement(text, base), editable=True))

    def requirement(self, text: str, base: Path | None) -> Requirement:
        """One requirement.

        Raises:
            InvalidSpecError: it is none.
        """
        try:
            return parse(text, base)
        except ValueError as error:
            self._refuse(f"{text!r} is not a requirement: {error}", "write it as in a requirements file")

    def _text(self, path: Path) -> str:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                self._refuse(f"{path} is not a requirements file")
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._refuse(f"the requirements file {path} cannot be read: {reason}")

    def _words(self, line: str) -> list[str]:
        try:
            return shlex.split(line)
        except ValueError as error:
            self._refuse(f"the quotes in {line!r} do not balance ({error})", "quote it as for a shell")

    def _refuse(self, cause: str, remedy: str = _FILE_REMEDY) -> NoReturn:
        raise InvalidSpecError(redact_urls(cause), field=self._field, remedy=remedy)


def split_options(words: Sequence[str], takes_value: Mapping[str, bool]) -> list[Option]:
    """Options and their values; a word that belongs to no option is one without a name.

    ``--name value``, ``--name=value``, ``-n value`` and ``-nvalue`` are the same. An option that is not in
    ``takes_value`` keeps its own spelling.
    """
    found: list[Option] = []
    rest: Iterator[str] = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            found.append(Option("", word))
            continue
        if not word.startswith("--") and word[:2] in SHORT_OPTIONS:
            name, value = SHORT_OPTIONS[word[:2]], word[2:].removeprefix("=")
            equals = value
        name = _ALIASES.get(name, name)
        if name not in takes_value:
            found.append(Option(word, known=False))
        elif takes_value[name]:
            found.append(Option(name, value if equals else next(rest, "")))
        else:
            found.append(Option(name))
    return found


def _joined(text: str) -> Iterator[str]:
    """Lines, those that end in a backslash joined with the next."""
    pending = ""
    for line in text.splitlines():
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            pending += line[:-1]
            continue
        yield pending + (" " + line if comment and pending else line)
        pending = ""
    if pending:
        yield pending
