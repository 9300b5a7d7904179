"""``run_options``: words of a runtime env read as options of ``podman run``, which are judged elsewhere.

The table is podman-run(1)'s, of versions 4 and 5.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ray_envd.agent.errors import InvalidSpecError

#: Options that are on or off, ``--x`` or ``--x=false``. All others take a value.
_SWITCHES = frozenset({
    "detach", "disable-content-trust", "env-host", "help", "http-proxy", "init", "interactive",
    "no-healthcheck", "no-hostname", "no-hosts", "oom-kill-disable", "passwd", "privileged", "publish-all",
    "quiet", "read-only", "read-only-tmpfs", "replace", "rm", "rmi", "rootfs", "sig-proxy", "tls-verify",
    "tty", "unsetenv-all",
})  # fmt: skip
_OTHER_NAMES = {"net": "network", "dns-opt": "dns-option", "timezone": "tz"}
_SHORT = {
    "a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive",
    "l": "label", "m": "memory", "P": "publish-all", "p": "publish", "q": "quiet", "t": "tty", "u": "user",
    "v": "volume", "w": "workdir",
}  # fmt: skip
_REMEDY = 'write ["--cpus=2", "--memory=4g"]'


@dataclass(frozen=True, slots=True)
class Option:
    """One option, by its long name without dashes; no value where it is a switch that is on."""

    name: str
    value: str | None = None

    @property
    def word(self) -> str:
        """As one argument, which nothing can take for another."""
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def parse_options(words: Sequence[str], field: str) -> list[Option]:
    """Reads options in all the forms that podman takes: ``--x=y``, ``--x y``, ``-xy``, ``-x y``.

    Stock pastes its list into a line of a shell, so its users write ``"--cpus 2"`` as one word: that is two
    here as well.

    Raises:
        InvalidSpecError: something is no option, or a value is missing.
    """
    found: list[Option] = []
    rest = [word for text in words for word in _words(text, field)]
    rest.reverse()
    while rest:
        word = rest.pop()
        if word.startswith("--") and word != "--":
            found.append(_long(word[2:], rest, field))
        elif word.startswith("-") and word not in {"-", "--"}:
            found.extend(_short(word[1:], rest, field))
        else:
            raise InvalidSpecError(
                f"{word!r} in 'run_options' is no option",
                field=field,
                remedy="only options of podman run may stand there; the image has a field of its own",
            )
    return found


def _words(text: str, field: str) -> list[str]:
    name = text.partition("=")[0]
    if not text.startswith("-") or len(name.split()) == 1:
        return [text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidSpecError(
            f"the quotes of {name!r} in 'run_options' do not balance ({error})", field=field, remedy=_REMEDY
        ) from error


def _long(text: str, rest: list[str], field: str) -> Option:
    name, equals, value = text.partition("=")
    name = _OTHER_NAMES.get(name, name)
    if equals:
        return Option(name, value)
    return Option(name) if name in _SWITCHES else Option(name, _next(rest, f"--{name}", field))


def _short(letters: str, rest: list[str], field: str) -> Iterator[Option]:
    for place, letter in enumerate(letters):
        name = _SHORT.get(letter)
        if name is None:
            raise InvalidSpecError(f"'-{letter}' in 'run_options' is not known", field=field, remedy=_REMEDY)
        if name in _SWITCHES:
            yield Option(name)
            continue
        value = letters[place + 1 :].removeprefix("=")
        yield Option(name, value or _next(rest, f"-{letter}", field))
        return


def _next(rest: list[str], option: str, field: str) -> str:
    if not rest:
        raise InvalidSpecError(f"{option!r} in 'run_options' has no value", field=field, remedy=_REMEDY)
    return rest.pop()


def hidden_values(words: Iterable[object]) -> set[str]:
    """The values of variables in run_options that may be anything: those are not for people to read."""
    texts = [word for word in words if isinstance(word, str)]
    try:
        options = parse_options(texts, "image")
    except InvalidSpecError:
        # Not to be read as options, so nothing runs with them; but what was meant may be a secret.
        return {word.partition("=")[2] for word in texts if "=" in word} - {""}
    values = [option.value or "" for option in options if option.name == "env"]
    return {value.partition("=")[2] for value in values if "=" in value} - {""}
