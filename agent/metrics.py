"""What Prometheus is told. One registry per daemon, so that tests can have several.

Names follow the conventions of Prometheus: base units, ``_total`` on counters. Labels take few values, and
none of them comes from a runtime env, a path or a user. docs/metrics.md is made from this registry
(``tools/metrics_table.py``), deploy/ has a dashboard and alerts that stand on it.

Counting is a few operations in memory, from any thread; what others know already is asked when Prometheus
asks.
"""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ray_envd import __version__
from ray_envd.agent.build_metrics import WORK, BuildMetrics, WaitMetrics
from ray_envd.agent.config_kinds import OBJECT_KINDS
from ray_envd.agent.errors import EnvError
from ray_envd.agent.interpreter_gc import InterpreterGc

#: A hit takes some ten microseconds, a large build minutes.
_CALLS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600)
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
#: Why an object was evicted: it was damaged; its kind was above its limit; the store was above the high
#: watermark; a build needed room; others had filled the disk; somebody asked for a collection, or for this
#: object to go; its session has a limit of its own.
REASONS = ("damaged", "kind_limit", "watermark", "room", "disk", "request", "removed", "session_limit")


# The time at which each series began would be one more series each, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]  # its annotation is missing


def _codes(kind: type[EnvError] = EnvError) -> set[str]:
    """The codes of all failures that there are."""
    return {kind.code}.union(*(_codes(each) for each in kind.__subclasses__()))


class RequestMetrics:
    """What was asked for, and how it went."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.acquires = Counter(
            "ray_envd_acquires",
            "Runtime envs asked for: hit, built (something had to be made or fetched), failed, or cancelled"
            " (who asked has gone).",
            ["outcome"],
            registry=registry,
        )
        #: Bound once: this one is on the path of a hit.
        self.hits = self.acquires.labels("hit")
        self.acquire_seconds = Histogram(
            "ray_envd_acquire_seconds",
            "Time to answer a request for a runtime env that was not ready in memory, by outcome.",
            ["outcome"],
            buckets=WORK,
            registry=registry,
        )
        self.pending = Gauge(
            "ray_envd_acquires_pending",
            "Requests for runtime envs that wait for an answer.",
            registry=registry,
        )
        self.failures = Counter(
            "ray_envd_failures",
            "Runtime envs that could not be prepared, by error code (resolution, no_space ...).",
            ["code"],
            registry=registry,
        )
        self.rpc_seconds = Histogram(
            "ray_envd_rpc_seconds",
            "Time to answer a call. Face raylet: HTTP status, or dropped or cancelled; face grpc: gRPC's"
            " status; a stream ends with its last message.",
            ["face", "method", "code"],
            buckets=_CALLS,
            registry=registry,
        )
        for outcome in ("built", "failed", "cancelled"):
            self.acquires.labels(outcome)
        for code in _codes():
            self.failures.labels(code)


class StoreMetrics:
    """Bytes, and what went to make room."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"ray_envd_{name}", text, registry=registry)

        self.stored_bytes = gauge(
            "stored_bytes", "Bytes on disk of all objects: shared files once, those of uv's caches not."
        )
        self.uv_cache_bytes = gauge("uv_cache_bytes", "Bytes of uv's caches, when they were measured last.")
        self.reserved_bytes = gauge("reserved_bytes", "Bytes set aside for builds under way.")
        self.limit_bytes = gauge("limit_bytes", "The budget: what may be stored and reserved together.")
        self.disk_free_bytes = gauge("disk_free_bytes", "What is free on the store's disk.")
        self.min_free_bytes = gauge("min_free_bytes", "What of the disk no build may take.")
        self.apparent_bytes = gauge("apparent_bytes", "What all objects would take if none shared a file.")
        self.image_bytes = gauge("image_bytes", "What of stored_bytes are layers of container images.")
        self.objects = Gauge("ray_envd_objects", "Objects in the store.", ["kind"], registry=registry)
        self.exclusive_bytes = Gauge(
            "ray_envd_exclusive_bytes",
            "Bytes that objects share with nobody: the sum of what each one's removal alone would free.",
            ["kind"],
            registry=registry,
        )
        self.evictions = Counter(
            "ray_envd_evictions",
            f"Objects that were removed, by reason ({', '.join(REASONS)}).",
            ["kind", "reason"],
            registry=registry,
        )
        self.freed_bytes = Counter(
            "ray_envd_freed_bytes",
            "Bytes freed by removing objects, and by pruning uv's caches, by reason as for evictions.",
            ["reason"],
            registry=registry,
        )
        self.collection_seconds = Histogram(
            "ray_envd_collection_seconds",
            "Time of a collection, by why it began (watermark, room, disk, request).",
            ["reason"],
            buckets=WORK,
            registry=registry,
        )
        for reason in REASONS:
            self.freed_bytes.labels(reason)
            for kind in OBJECT_KINDS:
                self.evictions.labels(kind, reason)

    def evicted(self, kind: str, reason: str, freed: int) -> None:
        """One object was removed by itself."""
        self.evictions.labels(kind, reason).inc()
        self.freed_bytes.labels(reason).inc(freed)


class DaemonMetrics:
    """The process, and who is attached to it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.info = Gauge("ray_envd_info", "1; the version of ray-envd.", ["version"], registry=registry)
        self.info.labels(__version__).set(1)
        self.ready = Gauge("ray_envd_ready", "1 while new work is taken, else 0.", registry=registry)
        self.sessions = Gauge("ray_envd_sessions", "Sessions (raylets) attached.", registry=registry)
        self.references = Gauge("ray_envd_references", "References held by sessions.", registry=registry)
        self.loop_lag = Histogram(
            "ray_envd_loop_lag_seconds",
            "How late the event loop woke from a timer, looked at once a second.",
            buckets=_LAGS,
            registry=registry,
        )
        self.warm = Gauge(
            "ray_envd_warm_envs",
            "Runtime envs of the warm file, by state: wanted (all of them), ready, failed (so far).",
            ["state"],
            registry=registry,
        )
        self.interpreter_gc = InterpreterGc(registry)
        ProcessCollector(registry=registry)

    def watch_warm(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Has the states of the warm file's envs counted each time the figures are asked for."""
        for state in count():
            self.warm.labels(state).set_function(partial(_of, count, state))


class Metrics:
    """The daemon's figures.

    Attributes:
        registry: all of them.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics(self.registry)
        self.builds = BuildMetrics(self.registry)
        self.waits = WaitMetrics(self.registry)
        self.store = StoreMetrics(self.registry)
        self.daemon = DaemonMetrics(self.registry)

    def value(self, name: str, **labels: str) -> float:
        """One figure as it is now; 0 if it was never touched."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def render(self) -> bytes:
        """The text format of Prometheus, version 0.0.4. Takes milliseconds: call it in a thread."""
        return generate_latest(self.registry)


def _of(count: Callable[[], Mapping[str, int]], state: str) -> float:
    return count()[state]
