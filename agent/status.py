"""Figures about the daemon, gathered in one place for ``stats`` and for Prometheus."""

import os
import resource
import shutil
import time
from typing import Any

from ray_envd.agent.collector import Collector
from ray_envd.agent.manager import Manager
from ray_envd.agent.warm import Warm
from ray_envd.cache.budget import Budget
from ray_envd.cache.store import Store
from ray_envd.cache.usage import other_bytes


class Status:
    """Reads what others count."""

    def __init__(
        self, manager: Manager, collector: Collector, warm: Warm, budget: Budget, store: str, limit: int
    ) -> None:
        self._warm = warm
        self._manager, self._collector, self._budget = manager, collector, budget
        self._store, self._limit = store, limit
        self._started = time.monotonic()

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
            "sessions": len(manager.references.sessions()),
            "references": manager.references.total(),
            "hits": self._value("ray_envd_acquires_total", outcome="hit"),
            "misses": self._value("ray_envd_acquires_total", outcome="built"),
            "failures": self._value("ray_envd_acquires_total", outcome="failed"),
            "builds": sum(
                int(sample.value)
                for metric in manager.metrics.builds.collect()
                for sample in metric.samples
                if sample.name.endswith("_total") and sample.labels["outcome"] == "built"
            ),
            "building": int(manager.metrics.registry.get_sample_value("ray_envd_building") or 0),
            "resident_bytes": resident_bytes(),
            "draining": manager.draining,
            **{f"warm_{state}": count for state, count in self._warm.count().items()},
        }

    def _value(self, name: str, **labels: str) -> int:
        return int(self._manager.metrics.registry.get_sample_value(name, labels) or 0)


def _sizes(store: Store) -> dict[str, int]:
    """What the store weighs; blocking, but for the walk of uv's caches."""
    entries, ledger = store.entries(), store.ledger()
    return {
        "objects": len(entries),
        "object_bytes": ledger.total,
        "image_bytes": ledger.beyond,
        "apparent_bytes": sum(entry.size.apparent for entry in entries),
        "exclusive_bytes": sum(ledger.exclusive(entry.size) for entry in entries),
        "other_bytes": other_bytes(store),
        "damaged": sum(1 for entry in entries if entry.damaged),
    }


def resident_bytes() -> int:
    """Memory of this process (proc(5), statm: second field, in pages)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
