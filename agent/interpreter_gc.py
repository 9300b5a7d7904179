"""How long Python's collector of cycles stops the daemon: all threads stand still meanwhile."""

import gc
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_SECONDS = "ray_envd_python_gc_seconds", "Time in which Python collected cycles and nothing else ran."
_RUNS = "ray_envd_python_gc_runs", "How often Python collected cycles."
_GENERATIONS = 3


class InterpreterGc(Collector):
    """Counts from :meth:`watch` to :meth:`stop`.

    Python calls back wherever it happens to collect, be it while a lock of a metric is held: so the sums are
    plain numbers here, and become metrics only when they are asked for.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._began = 0.0
        self._seconds, self._runs = [0.0] * _GENERATIONS, [0] * _GENERATIONS
        registry.register(self)

    def watch(self) -> None:
        """Begins to count."""
        gc.callbacks.append(self._heard)

    def stop(self) -> None:
        """Counts no more; nothing if it did not."""
        if self._heard in gc.callbacks:
            gc.callbacks.remove(self._heard)

    def _heard(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        elif self._began:
            generation = info["generation"]
            self._seconds[generation] += time.perf_counter() - self._began
            self._runs[generation] += 1

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See prometheus_client.registry.Collector."""
        for (name, text), values in ((_SECONDS, self._seconds), (_RUNS, self._runs)):
            family = CounterMetricFamily(name, text, labels=["generation"])
            for generation, value in enumerate(values):
                family.add_metric([str(generation)], value)
            yield family
