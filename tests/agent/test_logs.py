"""The process's log."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from ray_envd.agent import logs

CANARY = "canary-7531"
URL = f"https://bob:{CANARY}@index.test/simple?token={CANARY}x"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_rich_is_not_loaded_for_it() -> None:
    """It is a part of the daemon's start that nobody needs; it can be loaded afterwards."""
    script = "import sys; from ray_envd.agent import logs; assert 'rich' not in sys.modules; import rich"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_a_terminal_each_line_is_json() -> None:
    """Level, logger, time and message are fields."""
    stream = io.StringIO()
    logs.configure("info", "auto", stream)
    logging.getLogger("some.module").warning("built %s", "six", extra={"objects": 3})
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"], line["objects"]) == (
        "built six",
        "warning",
        "some.module",
        3,
    )
    assert str(line["timestamp"]).endswith("Z")


def test_a_terminal_gets_readable_lines() -> None:
    """Auto means console there, and json can be forced."""
    stream = Terminal()
    logs.configure("info", "auto", stream)
    logging.getLogger("m").info("hello")
    assert "hello" in stream.getvalue()
    assert "{" not in stream.getvalue()
    forced = Terminal()
    logs.configure("info", "json", forced)
    logging.getLogger("m").info("hello")
    assert lines(forced)[0]["event"] == "hello"


def test_the_level_holds_and_a_second_set_up_replaces_the_first() -> None:
    """Nothing below the level, and no line twice."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure("debug", "json", first)
    logs.configure("warning", "json", second)
    logging.getLogger("m").info("quiet")
    logging.getLogger("m").error("loud")
    assert first.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["loud"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_credentials_never_get_through(log_format: str) -> None:
    """Not in messages, arguments, extras, nested values, exceptions or warnings."""
    stream = io.StringIO()
    logs.configure("debug", log_format, stream)
    log = logging.getLogger("m")
    log.info(URL)
    log.info("from %s and %r", URL, {"u": URL})
    log.info("extra", extra={"nested": {"list": [URL, (URL,)]}, "object": ValueError(URL)})
    try:
        int(URL)
    except ValueError:
        log.exception("failed")
    warnings.warn(URL, stacklevel=1)
    text = stream.getvalue()
    assert CANARY not in text
    assert text.count("index.test") >= 7
    assert "Traceback" in text
