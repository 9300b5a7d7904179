"""Digests, and the keys of objects.

A digest is SHA-256 in lower hex. Keys become paths, so they are validated where they are made: no value that
reaches :class:`ObjectKey` can name anything but one folder below its owner's.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{8,128}")


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Names one object of the store.

    Attributes:
        owner: uid of the user to whom it belongs; users share no objects.
        kind: what it is (``archive``, ``venv``, ...), ``[a-z][a-z0-9-]*``.
        digest: of what it was made from, or of its content; lower hex.

    Raises:
        ValueError: a part is not of that form.
    """

    owner: int
    kind: str
    digest: str

    def __post_init__(self) -> None:
        if self.owner < 0:
            raise ValueError(f"not a uid: {self.owner}")
        # Without a call of the functions below: a start makes tens of thousands of keys.
        if _KIND.fullmatch(self.kind) is None:
            raise ValueError(f"not an object kind: {self.kind[:80]!r}")
        if _DIGEST.fullmatch(self.digest) is None:
            raise ValueError(f"not a digest: {self.digest[:140]!r}")

    @property
    def id(self) -> str:
        """How people and programs name it: ``kind/digest``. The owner is not part of it."""
        return f"{self.kind}/{self.digest}"


def digest_of(*parts: JSON) -> str:
    """The digest of a sequence of JSON values; different sequences have different digests.

    The values are written as one canonical JSON array (keys sorted, no spaces, ASCII), so neither the order
    of keys nor the borders between parts can be confused.

    Raises:
        TypeError, ValueError: a part is not JSON (NaN and infinities are not).
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_digest(path: Path) -> str:
    """The digest of a file's content, read in pieces; blocking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
