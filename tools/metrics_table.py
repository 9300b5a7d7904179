"""The table of docs/metrics.md, made from the registry: printed, or with `--write` put there."""

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from ray_envd.agent.metrics import Metrics

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- made by tools/metrics_table.py -->\n", "<!-- end -->\n"


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Name as Prometheus shows it, type, labels, meaning; in the order of their names."""
    metrics = Metrics()
    labels = {
        each._name: each._labelnames  # noqa: SLF001 - the library tells them nowhere else
        for group in (metrics.requests, metrics.builds, metrics.waits, metrics.store, metrics.daemon)
        for each in vars(group).values()
        if isinstance(each, MetricWrapperBase)
    }
    for family in sorted(metrics.registry.collect(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        sampled = family.samples[0].labels if family.samples else ()
        yield name, family.type, ", ".join(labels.get(family.name, tuple(sampled))), family.documentation


def table() -> str:
    """All of it, as Markdown."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in rows()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    if "--write" not in sys.argv:
        sys.stdout.write(table())
        return
    page = PAGE.read_text()
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:before] + table() + page[after:])


if __name__ == "__main__":
    main()
