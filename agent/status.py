"""Figures about the daemon, gathered in one place for ``stats`` and for Prometheus."""

import os
import resource
import shutil
import time
from typing import Any

from ray_envd.agent.collector import Collector
from ray_envd.agent.config_kinds import OBJECT_KINDS
from ray_envd.agent.manager import Manager
from ray_envd.agent.warm import Warm
from ray_envd.cache.budget import Budget
from ray_envd.cache.store import Store
from ray_envd.cache.usage import other_bytes, totals


class Status:
    """Reads what others count."""

    def __init__(
        self, manager: Manager, collector: Collector, warm: Warm, budget: Budget, store: str, limit: int
    ) -> None:
        self._warm = warm
        self._manager, self._collector, self._budget = manager, collector, budget
        self._store, self._limit = store, limit
        self._started = time.monotonic()
        self._publish()

    def _publish(self) -> None:
        """Has Prometheus told, each time it asks, what others know at once."""
        metrics, workshop = self._manager.metrics, self._manager.workshop
        metrics.store.limit_bytes.set(self._limit)
        metrics.store.min_free_bytes.set(self._budget.min_free)
        metrics.store.stored_bytes.set_function(workshop.store.stored_bytes)
        metrics.store.uv_cache_bytes.set_function(lambda: self._collector.uv_cache_bytes)
        metrics.store.reserved_bytes.set_function(lambda: self._budget.reserved)
        metrics.waits.waiting_for_room.set_function(lambda: workshop.space.waiting)
        metrics.daemon.references.set_function(self._manager.uses.references.total)

    async def collect(self) -> dict[str, Any]:
        """The fields of StatsReply but for the version."""
        manager = self._manager
        disk = await manager.workshop.thread(shutil.disk_usage, self._store)
        sizes = await manager.workshop.thread(_sizes, manager.workshop.store)
        return {
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self._started,
            "store": self._store,
            **sizes,
            "uv_cache_bytes": self._collector.uv_cache_bytes,
            "budget_bytes": self._limit,
            "reserved_bytes": self._budget.reserved,
            "disk_free_bytes": disk.free,
            "disk_total_bytes": disk.total,
            "sessions": len(manager.uses.references.sessions()),
            "references": manager.uses.references.total(),
            "hits": self._acquires("hit"),
            "misses": self._acquires("built"),
            "failures": self._acquires("failed"),
            "builds": int(
                sum(
                    manager.metrics.value("ray_envd_builds_total", kind=kind, outcome="built")
                    for kind in OBJECT_KINDS
                )
            ),
            "building": int(manager.metrics.value("ray_envd_building")),
            "resident_bytes": resident_bytes(),
            "draining": manager.draining,
            **{f"warm_{state}": count for state, count in self._warm.count().items()},
        }

    def _acquires(self, outcome: str) -> int:
        return int(self._manager.metrics.value("ray_envd_acquires_total", outcome=outcome))


def _sizes(store: Store) -> dict[str, int]:
    """What the store weighs; blocking, but for the walk of uv's caches."""
    sums = totals(store)
    return {
        "objects": sum(sums.objects.values()),
        "object_bytes": sums.stored,
        "image_bytes": sums.layers,
        "apparent_bytes": sums.apparent,
        "exclusive_bytes": sum(sums.exclusive.values()),
        "other_bytes": other_bytes(store),
        "damaged": sums.damaged,
    }


def resident_bytes() -> int:
    """Memory of this process (proc(5), statm: second field, in pages)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
