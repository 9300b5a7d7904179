"""What Prometheus is told of objects, looked up and made, and of builds that wait. See metrics.py."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ray_envd.agent.config_kinds import OBJECT_KINDS
from ray_envd.agent.slots import Slots

#: Seconds: a hit on uv's cache takes some ten milliseconds, a large build minutes.
WORK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


def outcome_of(error: BaseException) -> str:
    """How work has ended that raised this."""
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"


class BuildMetrics:
    """Objects: looked up, and made."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "ray_envd_lookups",
            "Objects looked up for an env that is not ready in memory: hit, miss, or joined (its build for"
            " somebody else was under way).",
            ["kind", "outcome"],
            registry=registry,
        )
        self.saved_seconds = Counter(
            "ray_envd_saved_seconds",
            "What objects that a lookup found had taken to build.",
            ["kind"],
            registry=registry,
        )
        self.builds = Counter(
            "ray_envd_builds",
            "Objects built, by outcome (built, failed, cancelled).",
            ["kind", "outcome"],
            registry=registry,
        )
        self.phase_seconds = Histogram(
            "ray_envd_build_phase_seconds",
            "Time of the phases of builds: resolve, download, make, commit, seal; outcome done, failed or"
            " cancelled.",
            ["kind", "phase", "outcome"],
            buckets=WORK,
            registry=registry,
        )
        self.fetched_bytes = Counter(
            "ray_envd_fetched_bytes",
            "Bytes downloaded for objects that were built.",
            ["kind"],
            registry=registry,
        )
        self.building = Gauge(
            "ray_envd_building", "Builds under way, waiting ones included.", registry=registry
        )
        self.damaged = Counter(
            "ray_envd_damaged", "Objects found damaged and taken out of service.", ["kind"], registry=registry
        )
        self._begin_series()

    def _begin_series(self) -> None:
        """Has what is counted seldom be there from the start, as 0."""
        for kind in OBJECT_KINDS:
            self.damaged.labels(kind)
            for outcome in ("built", "failed", "cancelled"):
                self.builds.labels(kind, outcome)
            for outcome in ("hit", "miss", "joined"):
                self.lookups.labels(kind, outcome)

    def found(self, kind: str, build_seconds: float) -> None:
        """An object was looked up and was there."""
        self.lookups.labels(kind, "hit").inc()
        self.saved_seconds.labels(kind).inc(build_seconds)

    @contextmanager
    def phase(self, kind: str, phase: str) -> Iterator[None]:
        """Measures the block as one phase of a build."""
        began, outcome = time.monotonic(), "done"
        try:
            yield
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self.phase_seconds.labels(kind, phase, outcome).observe(time.monotonic() - began)


class WaitMetrics:
    """Builds that wait for others."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "ray_envd_build_wait_seconds",
            "Time that builds waited, be it none: for a slot (other builds) or for room (bytes).",
            ["resource"],
            buckets=WORK,
            registry=registry,
        )
        self.waiting = Gauge("ray_envd_builds_waiting", "Builds that wait for a slot.", registry=registry)
        self.waiting_for_room = Gauge(
            "ray_envd_builds_waiting_for_room", "Builds that wait for bytes of the budget.", registry=registry
        )
        self.slots = Gauge(
            "ray_envd_build_slots_used",
            "Builds that run, by lane: young, or old (those that have run for some seconds).",
            ["lane"],
            registry=registry,
        )

    def watch_slots(self, slots: Slots) -> None:
        """Has the slots asked each time the figures are."""
        self.waiting.set_function(lambda: slots.waiting)
        self.slots.labels("young").set_function(lambda: slots.young)
        self.slots.labels("old").set_function(lambda: slots.old)
