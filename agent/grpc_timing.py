"""Measures the calls of a gRPC service.

Not an interceptor: with one, grpc.aio looks up and makes the handler of each call anew, hits included.
"""

import functools
import inspect
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from ray_envd.agent.metrics import Metrics

_NAMES = {code.value[0]: code.name.lower() for code in grpc.StatusCode}


class TimedService:
    """A servicer whose methods are those of another one, and measured."""

    def __init__(self, service: object, metrics: Metrics) -> None:
        self._service, self._seconds = service, metrics.requests.rpc_seconds

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)
        return self._stream(name, method) if inspect.isasyncgenfunction(method) else self._unary(name, method)

    def _unary(self, name: str, method: Any) -> Any:
        @functools.wraps(method)
        async def measured(request: Any, context: Any) -> Any:
            began, code = time.perf_counter(), ""
            try:
                return await method(request, context)
            except Exception:
                code = _code(context) or "unknown"
                raise
            except BaseException:
                code = "cancelled"
                raise
            finally:
                self._measure(name, code or _code(context) or "ok", time.perf_counter() - began)

        return measured

    def _stream(self, name: str, method: Any) -> Any:
        """Up to the last message: what is said is said, however long the caller keeps the stream open."""

        @functools.wraps(method)
        async def measured(request: Any, context: Any) -> AsyncIterator[Any]:
            began = last = time.perf_counter()
            code = ""
            try:
                async for message in method(request, context):
                    last = time.perf_counter()
                    yield message
            except Exception:
                code = _code(context) or "unknown"
                raise
            finally:
                self._measure(name, code or _code(context) or "ok", last - began)

        return measured

    def _measure(self, name: str, code: str, seconds: float) -> None:
        self._seconds.labels("grpc", name, code).observe(seconds)


def _code(context: Any) -> str:
    """The status that a method has set; empty if none."""
    code = context.code()
    value = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return _NAMES.get(value, "") if value else ""
