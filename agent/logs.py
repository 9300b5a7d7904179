"""The process's log: structlog behind the standard ``logging``, set up once.

Modules write with ``logging.getLogger(__name__)``. Whatever arrives, also from libraries, is passed
through :func:`redact` before it is rendered: the last line of defence, in case that a message was built of
something that nobody masked.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from types import ModuleType
from typing import Any, TextIO, cast

from ray_envd.agent.redaction import redact_urls

# structlog.dev loads rich, if it can, for tracebacks that are not ours: a fifth of the daemon's start. None
# means that there is no such module.
_modules = cast("dict[str, ModuleType | None]", sys.modules)
_hidden = _modules.setdefault("rich", None) is None
import structlog  # noqa: E402 - see above

if _hidden:
    del _modules["rich"]

_DEPTH = 6  # of nested values; deeper ones are shown as text


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
    handler.setFormatter(_formatter(console=console, colors=console and stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: masks credentials in URLs in every string of an event."""
    for key, value in event.items():
        event[key] = _masked(value, _DEPTH)
    return event


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


def _formatter(*, console: bool, colors: bool) -> logging.Formatter:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    before: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        stamp,
        # Tracebacks become text before they are masked: a renderer that made them would make them afterwards.
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
    )
