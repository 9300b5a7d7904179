"""The token of callers on TCP: read from its file, and asked for."""

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from ray_envd.agent.config import ConfigError


def read_token(path: Path | None) -> str:
    """The token of the setting ``tcp_token_file``; blocking.

    Raises:
        ConfigError: there is none, it is empty, or others may read it.
    """
    if path is None:
        raise ConfigError(
            "tcp is set without tcp_token_file", "name a file of mode 0600 that holds the token"
        )
    try:
        mode, token = path.stat().st_mode, path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the token file {path} cannot be read: {error}", "write the token into it, mode 0600"
        ) from error
    if mode & 0o077:
        raise ConfigError(f"the token file {path} can be read by others", f"chmod 600 {path}")
    if not token:
        raise ConfigError(f"the token file {path} is empty", "write a long random token into it")
    return token


class TokenInterceptor(aio.ServerInterceptor):
    """Refuses calls without the bearer token; compared in constant time."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        async def refuse(_request: object, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")

        self._refusal: Any = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        metadata = dict(handler_call_details.invocation_metadata or ())
        given = metadata.get("authorization", "")
        if hmac.compare_digest(str(given).encode(), self._expected):
            return await continuation(handler_call_details)
        return self._refusal
