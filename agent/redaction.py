"""Keeping secrets out of everything that is read by people.

Two kinds of secrets reach the daemon inside a runtime env: values of ``env_vars``, and credentials in
URLs and options (``https://user:password@host``, ``?token=``). The first are unknown strings, so a
:class:`Redactor` is made of each runtime env and replaces exactly those; the second have a form, and
:func:`redact_urls` finds them anywhere. A third kind comes with the raylet's environment, which builds see
and may print: cloud keys, the cluster's token. Those are known by the names of their variables.
"""

import re
from collections.abc import Iterable, Mapping

MASK = "***"
#: Shorter values are words like "1" or "yes": masking them would garble every message.
_SHORTEST_SECRET = 4

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^/\s@'\"]+)@")
_QUERY_SECRET = re.compile(
    r"(?P<name>[?&;](?:[^=&;\s]*(?:token|key|secret|password|passwd|signature|credential|sig|auth)[^=&;\s]*))"
    r"=(?P<value>[^&;\s'\"]+)",
    re.IGNORECASE,
)
_SECRET_NAMES = ("TOKEN", "SECRET", "KEY", "PASSWORD", "PASSWD", "SAS", "CREDENTIAL", "HEADER")
_PLAIN_NAMES = ("_FILE", "_PATH", "_URI", "_HOST", "_ENDPOINT", "GOOGLE_APPLICATION_CREDENTIALS")
_WORDS = frozenset({"true", "false", "none", "null"})


def redact_urls(text: str) -> str:
    """The text with the user part of every URL and secret-looking query values masked."""
    text = _USERINFO.sub(lambda m: f"{m['scheme']}{MASK}@", text)
    return _QUERY_SECRET.sub(lambda m: f"{m['name']}={MASK}", text)


def secrets_in_urls(text: str) -> set[str]:
    """The secret parts of the URLs in a text, to be masked also where they stand alone."""
    found: set[str] = set()
    for match in _USERINFO.finditer(text):
        found.update(part for part in match["userinfo"].split(":") if part)
    found.update(match["value"] for match in _QUERY_SECRET.finditer(text))
    return found


def secrets_of_environment(environment: Mapping[str, str]) -> set[str]:
    """The values that variables keep secret according to their names, and credentials in addresses."""
    found: set[str] = set()
    for name, value in environment.items():
        upper = name.upper()
        if any(word in upper for word in _SECRET_NAMES) and not upper.endswith(_PLAIN_NAMES):
            found.add(value)
        if "://" in value:
            found |= secrets_in_urls(value)
    return {value for value in found if value.lower() not in _WORDS and not value.isdecimal()}


class Redactor:
    """Masks the given secrets, and credentials in URLs, in any text. Cheap to make; immutable."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Secrets shorter than four characters are not masked: they are words, not secrets."""
        known = {line for secret in secrets for line in (secret, *secret.splitlines())}
        # Longest first, so that a secret that contains another is masked whole.
        worth = sorted((s for s in known if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, worth))) if worth else None

    def __call__(self, text: str) -> str:
        """The text with every secret replaced by ``***``."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        return redact_urls(text)
