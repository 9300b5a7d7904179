"""The chaos soak, a short one: what must hold when everything is killed that may be.

``RAY_ENVD_SOAK_MINUTES`` makes it longer; `make soak` runs ten minutes, as told in docs/chaos.md.
"""

import os
import sys

import pytest
from asking import STOCK
from soak import Options, prepared

pytestmark = pytest.mark.skipif(STOCK, reason="stock Ray has no daemon")
MINUTES = float(os.environ.get("RAY_ENVD_SOAK_MINUTES", "0.5"))


def test_tasks_survive_chaos() -> None:
    """Daemon, link, tools and raylet are killed under load: no task fails that need not, nothing leaks."""
    said: list[str] = []
    with prepared(Options(MINUTES, seed=11, more_nodes=1), said.append) as soak:
        report = soak.run()
    sys.stdout.write("\n".join(said))
    assert report.strikes
    assert [f"{check.name}: {check.found}" for check in report.checks if not check.ok] == []
    assert report.figures()["outcomes"]["done"] > 0
