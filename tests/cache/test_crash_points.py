import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing() -> None:
    """Commits, pins, evictions, references, recovery itself: killed before each of their file operations."""
    script = Path(__file__).with_name("crash_points.py")
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # to the tests' helpers
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) steps, (\d+) killed recoveries\n", done.stdout)
    assert found is not None
    assert int(found[1]) > 100
    assert int(found[2]) > 50
