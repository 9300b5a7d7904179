"""What a real Prometheus sees of a real daemon: moving figures, the queries of the dashboard, the alerts."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busy_life import Life

sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "tools"))

import metrics_table

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "ray-envd.json").read_text())
#: Needs podman: tests/podman/test_images_daemon.py.
ELSEWHERE = {"ray_envd_image_bytes"}
#: Set once, or the kernel's.
CONSTANT = {
    "ray_envd_info",
    "ray_envd_limit_bytes",
    "ray_envd_min_free_bytes",
    "process_max_fds",
    "process_start_time_seconds",
}
#: What a label may be: a word or a number of ours, never a name, a path or an address of a user's.
WORD = re.compile(r"[a-z_]+|[0-9.]+|[0-9]+\.[0-9]+\.[0-9]+|\+Inf|[A-Z][A-Za-z]+")


@pytest.fixture(scope="module")
def life(place: Path) -> Iterator[Life]:
    """A daemon that has lived."""
    life = Life(place, RULES)
    try:
        life.run()
        yield life
    except BaseException:
        sys.stderr.write(life.daemon.tail())
        raise
    finally:
        life.close()


FIGURES = [(name, kind) for name, kind, _, _ in metrics_table.rows()]


def test_every_figure_moves(life: Life) -> None:
    """Counters have counted, gauges have had more than one value; what is constant is there."""
    still = []
    for name, kind in FIGURES:
        if name in ELSEWHERE:
            continue
        shown = f"{name}_count" if kind == "histogram" else name
        ever = f"max_over_time({shown}[10m])"
        if kind == "gauge" and name not in CONSTANT:
            ever += f" - min_over_time({shown}[10m])"
        if not life.prometheus.query(f"sum({ever}) > 0"):
            still.append(name)
    assert still == []


def test_figures_say_what_has_happened(life: Life) -> None:
    """Counts are those of what was done."""

    def figure(expression: str) -> float:
        found = life.prometheus.query(f"sum({expression})", life.noon)
        return float(found[0]["value"][1]) if found else 0.0

    assert figure('ray_envd_builds_total{kind="archive", outcome="built"}') == 2
    assert figure('ray_envd_fetched_bytes_total{kind="archive"}') > 22_000_000
    assert figure('ray_envd_builds_total{kind="python", outcome="built"}') == 2
    assert figure('ray_envd_lookups_total{kind="python", outcome="hit"}') == 1
    assert figure('ray_envd_saved_seconds_total{kind="python"}') > 0
    assert figure('ray_envd_evictions_total{kind="archive", reason="room"}') == 1
    assert figure('ray_envd_freed_bytes_total{reason="room"}') > 11_000_000
    assert figure('ray_envd_evictions_total{kind="python", reason="damaged"}') == 1
    assert figure('ray_envd_collection_seconds_count{reason="request"}') == 1
    assert figure('ray_envd_failures_total{code="no_space"}') == 1
    assert figure('ray_envd_failures_total{code="resolution"}') == 1
    assert figure('ray_envd_failures_total{code="timeout"}') == 1
    calls = 'ray_envd_rpc_seconds_count{face="raylet", method="GetOrCreateRuntimeEnv", code="200"}'
    assert 8 < figure(calls) < figure("ray_envd_acquires_total")  # the warm file's are nobody's calls
    assert figure('ray_envd_rpc_seconds_count{face="grpc", method="Gc", code="ok"}') == 1
    assert figure('ray_envd_rpc_seconds_count{face="grpc", method="Remove", code="not_found"}') == 1
    phases = life.prometheus.query('ray_envd_build_phase_seconds_count{outcome="done"} > 0', life.noon)
    seen = {each["metric"]["phase"] for each in phases}
    assert seen >= {"resolve", "download", "make", "commit"}
    assert figure('ray_envd_build_phase_seconds_count{phase="make", outcome="cancelled"}') >= 1
    assert figure('ray_envd_build_wait_seconds_sum{resource="slot"}') > 1  # the second large archive's
    assert figure('ray_envd_build_wait_seconds_count{resource="room"}') > 3
    assert figure("ray_envd_sessions") == 2
    assert figure("ray_envd_references") == 0


def test_labels_are_words(life: Life) -> None:
    """No value of a runtime env, no path and no user is in a label, and there are not many series."""
    series = life.prometheus.query('{__name__=~"ray_envd.*"}', life.noon)
    assert 300 < len(series) < 3000
    for each in series:
        labels = {name: value for name, value in each["metric"].items() if name not in {"instance", "job"}}
        for name, value in labels.items():
            assert name == "version" or WORD.fullmatch(value), labels


def test_the_table_of_the_figures() -> None:
    """The one in docs/metrics.md is that of the registry."""
    page = metrics_table.PAGE.read_text()
    assert f"{metrics_table.BEGIN}{metrics_table.table()}{metrics_table.END}" in page


def queries(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every query with the title of its panel; rows hold panels of their own."""
    for panel in panels:
        yield from queries(panel.get("panels", []))
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def filled(query: str) -> str:
    """With what Grafana would put in the places of its variables."""
    for name, value in {
        "$__rate_interval": "1m",
        "$__range": "5m",
        "$job": "ray-envd",
        "$instance": ".*",
    }.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_every_query_of_the_dashboard(life: Life) -> None:
    """Each is understood and has an answer."""
    empty = [
        (title, query)
        for title, query in queries(DASHBOARD["panels"])
        if not life.prometheus.query(filled(query), life.noon)
    ]
    assert empty == []


def test_the_dashboard_shows_every_figure() -> None:
    """What is counted can be seen; the names of the figures are those that there are."""
    text = " ".join(query for _, query in queries(DASHBOARD["panels"]))
    used = set(re.findall(r"\b(?:ray_envd|process)_\w+", text))
    known = {name for name, _ in FIGURES}
    plain = {name if name in known else re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert plain <= known
    assert {name for name in known if name.startswith("ray_envd")} <= plain


def test_the_variables_of_the_dashboard(life: Life) -> None:
    """Data source, job and instance can be chosen; each list has an entry."""
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variables[name]["query"]["query"])
        assert asked is not None
        assert life.prometheus.query(f"group by ({asked[2]}) ({filled(asked[1])})", life.noon)
    for panel in DASHBOARD["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"


def test_prometheus_takes_the_alerts(life: Life) -> None:
    """Each rule is evaluated without an error, and a daemon that is well raises none but for its failures."""
    alerts = life.prometheus.alerts()
    assert len(alerts) > 8
    assert {name: rule["lastError"] for name, rule in alerts.items() if rule["health"] != "ok"} == {}
