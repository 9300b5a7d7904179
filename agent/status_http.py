"""HTTP on loopback for machines that watch: ``/metrics``, ``/healthz``, ``/readyz``."""

from collections.abc import Callable
from http import HTTPStatus

from ray_envd.agent.http import Request, Response
from ray_envd.agent.metrics import Metrics

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StatusFace:
    """``/healthz``: the event loop turns. ``/readyz``: new work is taken. No secrets, no tokens."""

    def __init__(self, metrics: Metrics, ready: Callable[[], bool]) -> None:
        self._metrics, self._ready = metrics, ready

    def __call__(self, request: Request) -> Response:
        """Routes a request."""
        if request.method not in {"GET", "HEAD"}:
            return Response.text("use GET\n", HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path == "/metrics":
            return Response(self._metrics.render(), content_type=_METRICS_TYPE)
        if request.path == "/healthz":
            return Response.text("ok\n")
        if request.path == "/readyz":
            ready = self._ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return Response.text("ready\n" if ready else "not ready\n", status)
        return Response.text("not found\n", HTTPStatus.NOT_FOUND)
