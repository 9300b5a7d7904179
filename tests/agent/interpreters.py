"""The Pythons that this machine has."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def interpreters() -> list[str]:
    """Every Python of 3.9 to 3.13, one of each minor version."""
    roots = [Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"]
    found = {"{}.{}".format(*sys.version_info): sys.executable}
    for minor in range(9, 14):
        candidates = [shutil.which(f"python3.{minor}")]
        candidates += [str(path) for root in roots for path in root.glob(f"3.{minor}.*/bin/python3.{minor}")]
        for candidate in candidates:
            if (
                candidate
                and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0
            ):
                found.setdefault(f"3.{minor}", candidate)
    return sorted(found.values())
