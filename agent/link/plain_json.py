"""JSON by the C functions that :mod:`json` is made of.

:mod:`json` itself loads ``re``, and with it ``enum`` and ``functools``: 1.2 MiB of a link's 11, for a few
kilobytes of text. On a Python that has not these functions as 3.9 to 3.13 have them, it is :mod:`json`.
"""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    class _Settings:
        """What the scanner asks of a ``json.JSONDecoder``."""

        strict = True
        object_hook = object_pairs_hook = None
        parse_float, parse_int, parse_constant = float, int, float

    _encode = make_encoder(None, str, encode_basestring_ascii, None, ": ", ", ", False, False, True)
    _scan = make_scanner(_Settings)  # type: ignore[arg-type]  # typeshed wants a make_scanner, C these attributes
except (ImportError, TypeError, AttributeError):
    import json

    _scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # json.decoder's name since Python 2.6
    _encode = lambda value, _level: json.dumps(value)  # type: ignore[assignment]  # noqa: E731 - called alike


def dumps(value: object) -> str:
    """The same text as of :func:`json.dumps`, for dicts and lists of strings, numbers and None."""
    return "".join(_encode(value, 0))


def loads(text: str) -> dict[str, object]:
    """Parses an object.

    Raises:
        ValueError: it is something else.
    """
    text = text.strip()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("this is not JSON") from None
    if end != len(text) or not isinstance(value, dict):
        raise ValueError("this is not one JSON object")
    return value
