"""HTTP on loopback for machines that watch: ``/metrics``, ``/healthz``, ``/readyz``."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

from ray_envd.agent.http import Request, Response
from ray_envd.agent.metrics import Metrics

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StatusFace:
    """``/healthz``: the event loop turns. ``/readyz``: new work is taken, and what is wanted is warm.

    No secrets, no tokens.
    """

    def __init__(self, metrics: Metrics, missing: Callable[[], Sequence[str]]) -> None:
        """``missing`` says why the daemon is not ready, a line each; nothing if it is."""
        self._metrics, self._missing = metrics, missing

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Routes a request."""
        if request.method not in {"GET", "HEAD"}:
            return Response.text("use GET\n", HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path == "/metrics":
            return self._told()
        if request.path == "/healthz":
            return Response.text("ok\n")
        if request.path == "/readyz":
            missing = self._missing()
            if not missing:
                return Response.text("ready\n")
            lines = "\n  ".join(missing)
            return Response.text(f"not ready: {lines}\n", HTTPStatus.SERVICE_UNAVAILABLE)
        return Response.text("not found\n", HTTPStatus.NOT_FOUND)

    async def _told(self) -> Response:
        """There are a thousand lines and more: they are written in a thread."""
        return Response(await asyncio.to_thread(self._metrics.render), content_type=_METRICS_TYPE)
