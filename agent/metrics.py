"""What Prometheus is told. One registry per daemon, so that tests can have several."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ray_envd.agent.slots import Slots

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The daemon's counters and gauges; names follow the conventions of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "ray_envd_requests", "Calls answered, by call and status.", ["call", "status"], registry=registry
        )
        self.acquires = Counter(
            "ray_envd_acquires",
            "Runtime envs asked for, by outcome (hit, built, failed).",
            ["outcome"],
            registry=registry,
        )
        self.acquire_seconds = Histogram(
            "ray_envd_acquire_seconds",
            "Time to answer a request for a runtime env, by outcome.",
            ["outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.builds = Counter(
            "ray_envd_builds", "Objects built, by kind and outcome.", ["kind", "outcome"], registry=registry
        )
        self.build_seconds = Histogram(
            "ray_envd_build_seconds",
            "Time to build an object, by kind.",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "ray_envd_failures",
            "Runtime envs that could not be prepared, by error code.",
            ["code"],
            registry=registry,
        )
        self.evictions = Counter(
            "ray_envd_evictions", "Objects collected, by kind.", ["kind"], registry=registry
        )
        self.damaged = Counter(
            "ray_envd_damaged", "Objects found damaged, by kind.", ["kind"], registry=registry
        )
        self.freed_bytes = Counter("ray_envd_freed_bytes", "Bytes freed by collection.", registry=registry)
        self.stored_bytes = Gauge(
            "ray_envd_stored_bytes",
            "Bytes on disk of all objects: shared files once, those of uv's caches not.",
            registry=registry,
        )
        self.uv_cache_bytes = Gauge("ray_envd_uv_cache_bytes", "Bytes of uv's caches.", registry=registry)
        self.objects = Gauge("ray_envd_objects", "Objects in the store.", registry=registry)
        self.references = Gauge("ray_envd_references", "References held by sessions.", registry=registry)
        self.sessions = Gauge("ray_envd_sessions", "Sessions attached.", registry=registry)
        self.building = Gauge("ray_envd_building", "Builds under way.", registry=registry)
        self.waiting = Gauge(
            "ray_envd_builds_waiting", "Builds that wait for others to end.", registry=registry
        )
        self.slots = Gauge(
            "ray_envd_build_slots_used",
            "Builds that run, by lane: young, or old (those that have run for some seconds).",
            ["lane"],
            registry=registry,
        )
        self.warm = Gauge(
            "ray_envd_warm_envs",
            "Runtime envs of the warm file, by state: wanted (all of them), ready, failed (so far).",
            ["state"],
            registry=registry,
        )
        self.loop_lag = Gauge(
            "ray_envd_loop_lag_seconds",
            "How late the event loop woke from its last timer.",
            registry=registry,
        )

    def watch_slots(self, slots: Slots) -> None:
        """Has the slots asked each time the figures are."""
        self.waiting.set_function(lambda: slots.waiting)
        self.slots.labels("young").set_function(lambda: slots.young)
        self.slots.labels("old").set_function(lambda: slots.old)

    def watch_warm(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Has the states of the warm file's envs counted each time the figures are asked for."""
        for state in count():
            self.warm.labels(state).set_function(partial(_of, count, state))

    def render(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)


def _of(count: Callable[[], Mapping[str, int]], state: str) -> float:
    return count()[state]
