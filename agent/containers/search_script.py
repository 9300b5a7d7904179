"""Which Pythons an image has, and what each can import: one line of JSON on standard output.

Runs in a container of the image, under whichever Python starts there: standard library only, no syntax newer
than 3.7, nothing of this project imported. Takes one argument, JSON: ``probe``, the source of
:mod:`ray_envd.agent.python.probe_script`; ``first``, paths to look at before all others; ``ray``, the version
with which the search is over (empty: any).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("python", "python3", *(f"python3.{minor}" for minor in range(20, 8, -1)))
#: Where images put their Python without naming it on PATH; below the root.
_PLACES = (
    "opt/venv/bin/python",
    "venv/bin/python",
    "app/.venv/bin/python",
    "opt/conda/bin/python",
    "opt/conda/envs/*/bin/python",
    "opt/*/bin/python3",
    "home/*/anaconda3/bin/python",
    "home/*/miniconda3/bin/python",
    "home/*/.venv/bin/python",
    "root/.venv/bin/python",
    "usr/local/bin/python3",
    "usr/bin/python3",
)
_PREFIX = "ray-envd-probe:"
_WORKER = "_private/workers/default_worker.py"
_SECONDS = 60


def _candidates(first: list[str]) -> Iterator[Path]:
    paths = [Path(path) for path in first]
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(":") if folder.startswith("/")]
    paths += [Path(folder, name) for folder in folders for name in _NAMES]
    for pattern in _PLACES:
        paths += sorted(Path("/").glob(pattern))
    seen = set()
    for path in paths:
        try:
            if not (path.is_file() and os.access(path, os.X_OK)):
                continue
            # Links of one environment are one Python; an environment is another than the one below it.
            is_venv = (path.parent.parent / "pyvenv.cfg").exists()
            known = path.parent if is_venv else path.resolve()
        except OSError:
            continue
        if known not in seen:
            seen.add(known)
            yield path


def _ask(path: Path, source: str) -> dict[str, Any]:
    """What a Python is, or the last words of what is none that serves."""
    try:
        done = subprocess.run(
            [str(path), "-c", source],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    found = [line for line in lines if line.startswith(_PREFIX)]
    if done.returncode or not found:
        return {"error": "\n".join(lines[-3:])}
    facts = json.loads(found[-1][len(_PREFIX) :])
    worker = Path(facts["ray_path"] or "/", _WORKER)
    return {"facts": facts, "worker": str(worker) if worker.is_file() else ""}


def _main() -> None:
    asked = json.loads(sys.argv[1])
    answers = []
    for path in _candidates(asked["first"]):
        answer = dict(_ask(path, asked["probe"]), path=str(path))
        answers.append(answer)
        version = answer.get("facts", {}).get("ray_version")
        if answer.get("worker") and version and asked["ray"] in ("", version):
            break
    sys.stdout.write("\nray-envd-search:" + json.dumps(answers) + "\n")


if __name__ == "__main__":
    _main()
