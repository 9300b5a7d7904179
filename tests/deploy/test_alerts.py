"""The alert rules, judged by Prometheus' own tool."""

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE.parent.parent / "deploy" / "prometheus" / "alerts.yml"
CASES = HERE / "alerts.test.yml"


def promtool(*arguments: str) -> str:
    """What it says; it must be content."""
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_well_formed() -> None:
    """``promtool check rules`` has no word against them."""
    assert re.search(r"SUCCESS: \d+ rules found", promtool("check", "rules", "--lint-fatal", str(RULES)))


def test_alerts_fire_when_they_should() -> None:
    """Each alert fires on its own trouble, after its time, and none on a node that is well."""
    promtool("test", "rules", str(CASES))


def test_every_alert_has_a_case_and_a_runbook() -> None:
    """Who writes a rule says what it means, what to do, and shows that it fires."""
    rules = re.split(r"\n      - alert: ", RULES.read_text())[1:]
    cases = CASES.read_text()
    for rule in rules:
        name = rule.split(maxsplit=1)[0]
        assert re.search(rf'alertname="{name}"|alertname: {name}\n +exp_alerts:', cases), name
        assert all(f"          {each}:" in rule for each in ("summary", "description", "runbook")), name
        assert re.search(r"severity: (critical|warning)}", rule), name
