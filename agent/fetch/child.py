"""The daemon's side of :mod:`ray_envd.agent.fetcher`: starts it, listens, turns its answer into errors."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_envd.agent import process
from ray_envd.agent.errors import DiskFullError, DownloadError, EnvError, NetworkError, NeverFitsError
from ray_envd.agent.fetch.context import FetchContext, Report, Secure
from ray_envd.agent.fetch.uri import Uri
from ray_envd.agent.redaction import Redactor, secrets_of_environment

#: What of the raylet's environment the program gets: credentials, proxies, certificates, Ray's own
#: settings. Not LD_LIBRARY_PATH and its like, which would change the daemon's own interpreter.
_PREFIXES = (
    "AWS_",
    "AZURE_",
    "CLOUDSDK_",
    "GCE_",
    "GOOGLE_",
    "IDENTITY_",
    "MSI_",
    "RAY_RUNTIME_ENV_",
    "SSL_CERT_",
)
_NAMES = frozenset(
    {
        "CURL_CA_BUNDLE",
        "HOME",
        "LANG",
        "NETRC",
        "NO_GCE_CHECK",
        "PATH",
        "REQUESTS_CA_BUNDLE",
        "STORAGE_EMULATOR_HOST",
        "TZ",
        "USER",
    }
)

_ERRORS: Mapping[str, type[EnvError]] = {
    "permanent": DownloadError,
    "network": NetworkError,
    "too_large": NeverFitsError,
    "no_space": DiskFullError,
    "destination": DownloadError,
}


async def run(
    uri: Uri,
    destination: Path | None,
    context: FetchContext,
    *,
    field: str,
    report: Report,
    secure: Secure,
) -> Mapping[str, Any]:
    """Runs the program as the owner; without a destination it only asks for the validator.

    Returns:
        The program's result.

    Raises:
        Whatever ``secure`` does: the program has written nothing then, and has ended.
        DownloadError, NetworkError, NeverFitsError, DiskFullError: as the program says.
        ToolMissingError: the owner may not run the daemon's interpreter.
    """
    environment = selected(context)
    request = {
        "uri": uri.text,
        "destination": None if destination is None else str(destination),
        "max_bytes": context.max_bytes,
        "asks": True,
    }
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[int] = loop.create_future()

    def heard(line: str) -> None:
        loop.call_soon_threadsafe(told, _message(line))

    def told(message: Mapping[str, Any]) -> None:
        done, total, needs = (message.get(name) for name in ("done", "total", "needs"))
        if isinstance(done, int) and isinstance(total, int):
            report(done, total)
        elif isinstance(needs, int) and not asked.done():
            asked.set_result(needs)

    with _pipe() as (answers, allow):
        work = process.run(
            [sys.executable, "-I", "-m", "ray_envd.agent.fetcher"],
            env={**environment, "RAY_ENVD_FETCH": json.dumps(request)},
            cwd="/",
            owner=context.owner,
            stdin=answers,
            on_line=heard,
        )
        completed = await _attended(work, asked, secure, allow)
    answer = _message(completed.lines[-1]) if completed.lines else {}
    # The program is in its user's hands, so nothing is taken for granted of what it says.
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    raise _failure(uri, answer.get("error"), completed, redactor(uri, context, environment), field)


def _failure(uri: Uri, error: object, completed: process.Completed, redact: Redactor, field: str) -> EnvError:
    """What the program says went wrong, or that it said nothing."""
    if isinstance(error, dict):
        kind = _ERRORS.get(str(error.get("kind")), DownloadError)
        cause = redact(f"{uri.shown}: {error.get('cause')}")
        return kind(cause, field=field, remedy=redact(str(error.get("remedy"))))
    # It was killed, or could not start: what it said last is all there is to tell.
    return NetworkError(
        redact(f"{uri.shown}: the download ended with exit code {completed.returncode}"),
        field=field,
        output=[redact(line) for line in completed.tail()],
    )


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """The ends for reading and writing, of which the second does not block."""
    ends = os.pipe()
    try:
        os.set_blocking(ends[1], False)
        yield ends
    finally:
        for end in ends:
            os.close(end)


async def _attended(
    work: Coroutine[Any, Any, process.Completed], asked: asyncio.Future[int], secure: Secure, allow: int
) -> process.Completed:
    """Waits for the program to end; when it asks for room it is told once it has that."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            await secure(asked.result())
            os.write(allow, b"\n")
        return await running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait({running})


def _message(line: str) -> dict[str, Any]:
    """A line of the program; empty for what its libraries may print."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def selected(context: FetchContext) -> dict[str, str]:
    """The part of the raylet's environment that a download may depend on."""
    chosen = {
        name: value
        for name, value in context.environment.items()
        if name.startswith(_PREFIXES) or name in _NAMES or name.lower().endswith("_proxy")
    }
    chosen.setdefault("HOME", context.owner.home)
    chosen.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    return chosen


def redactor(uri: Uri, context: FetchContext, environment: Mapping[str, str]) -> Redactor:
    """Masks what the context masks, and the secrets of this URI and of the credentials' variables."""
    own = Redactor(secrets_of_environment(environment) | uri.secrets)
    return _Both(own, context.redact)


class _Both(Redactor):
    """One redactor after another."""

    def __init__(self, first: Redactor, second: Redactor) -> None:
        super().__init__()
        self._first, self._second = first, second

    def __call__(self, text: str) -> str:
        return self._second(self._first(text))
