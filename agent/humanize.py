"""Sizes and durations as people write them; :mod:`ray_envd.cache.text` writes them for people."""

import math
import re
from dataclasses import dataclass

_DECIMAL = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?P<binary>i?)(?P<byte>B?)", re.IGNORECASE)
_PERCENT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*%")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

SIZE_FORMS = "write a size such as 20GB (10^9 bytes), 20GiB (2^30 bytes) or 500000 (bytes)"
DURATION_FORMS = "write a duration such as 30s, 10m, 1h30m, or seconds as a plain number"


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, or a share of something that is known later.

    Exactly one of the two is set.
    """

    bytes: int | None = None
    percent: float | None = None

    def of(self, whole: int) -> int:
        """The bytes, where a share is a share of ``whole`` bytes."""
        if self.percent is not None:
            return int(whole * self.percent / 100)
        return self.bytes or 0

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else str(self.bytes)


def parse_bytes(text: str) -> int:
    """Bytes of ``20GB``, ``20GiB``, ``1.5 M`` or ``1000``.

    Raises:
        ValueError: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match["binary"] and not match["unit"]):
        raise ValueError("it is not a size")
    units = _BINARY if match["binary"] else _DECIMAL
    return int(float(match["number"]) * units[match["unit"].upper()])


def parse_size(text: str) -> Size:
    """A size, or a percentage above 0 and at most 100.

    Raises:
        ValueError: it is neither.
    """
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        return Size(bytes=parse_bytes(text))
    percent = float(match["number"])
    if not 0 < percent <= 100:  # noqa: PLR2004 - percent
        raise ValueError("a percentage is above 0 and at most 100")
    return Size(percent=percent)


def parse_duration(text: str) -> float:
    """Seconds of ``600``, ``10m``, ``1h30m`` or ``250ms``.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text):
        raise ValueError("it is not a duration")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def parse_pull_policy(text: str) -> float:
    """Seconds for which a tag of an image that was looked up is trusted.

    Infinity for ``missing``: as long as there is such an image; 0 for ``always``.

    Raises:
        ValueError: it is neither of these words, nor a duration.
    """
    words = {"missing": math.inf, "always": 0.0}
    word = text.strip().lower()
    return words[word] if word in words else parse_duration(text)
