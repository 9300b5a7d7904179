"""The process's log: the standard ``logging``, set up once.

Modules write with ``logging.getLogger(__name__)``. Whatever arrives, also from libraries, is masked before it
is rendered: the last line of defence, in case that a message was built of something that nobody masked.

Without a library: structlog loads rich, and was a fifth of the daemon's start.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO

from ray_envd.agent.redaction import redact_urls

_DEPTH = 6  # of nested values; deeper ones are shown as text
#: What is no ``extra``; the last three are added by formatters, and by Python 3.12.
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_BLOCKS = ("stack", "exception")  # shown to people below their line
_SHOWN = {"event", "level", "logger", "timestamp", *_BLOCKS}
_COLORS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Sends everything to one stream; may be called again, the last call counts.

    Args:
        level: debug, info, warning or error.
        log_format: console, json, or auto: console if the stream is a terminal, else a JSON object a line.
        stream: where to; None is stderr.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(partial(_for_people, colors=stream.isatty()) if console else json.dumps))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)


def _masked(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact_urls(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, Mapping):
        return {_masked(key, depth - 1): _masked(each, depth - 1) for key, each in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_masked(each, depth - 1) for each in value]
    return redact_urls(repr(value))


class _Formatter(logging.Formatter):
    """A record as fields: event, level, logger, those of ``extra``, timestamp (ISO 8601, UTC), exception."""

    def __init__(self, render: Callable[[Mapping[str, Any]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        fields = {"event": record.getMessage(), "level": record.levelname.lower(), "logger": record.name}
        fields |= {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        fields["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        # A traceback is text before it is masked, too.
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return self._render({name: _masked(value, _DEPTH) for name, value in fields.items()})


def _for_people(fields: Mapping[str, Any], *, colors: bool) -> str:
    level, blocks = fields["level"], [fields[name] for name in _BLOCKS if name in fields]
    if colors:
        level = f"\x1b[{_COLORS.get(level, '0')}m{level}\x1b[0m"
    more = [f"{name}={value}" for name, value in fields.items() if name not in _SHOWN]
    line = " ".join((fields["timestamp"], f"[{level}]", fields["event"], f"[{fields['logger']}]", *more))
    return "\n".join((line, *blocks))
