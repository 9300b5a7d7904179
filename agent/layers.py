"""A session's own layer over an environment of the store: what its workers run in, and write into.

The environment belongs to every session that needs the same set. So no worker runs in it: each session has a
thin virtual environment over it, whose site-packages are empty but for one ``.pth`` line. What a worker
installs, upgrades or writes goes there; tools refuse to uninstall what the environment holds, since it lies
outside of ``sys.prefix``. Python sees the layer, then the environment, then the raylet's interpreter.

Everything else of the environment is found in the layer where it is found in a virtual environment: its
scripts (rewritten to start the layer's Python), its programs and its data files (links).
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ray_envd.agent.environments import Environment
from ray_envd.agent.python.build import WorkerFacts, worker_facts
from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.scripts import copy_scripts, write_script
from ray_envd.agent.python.shadow import make_tree
from ray_envd.agent.trees import LAYERS, Trees
from ray_envd.agent.workshop import Bench

#: Sorts behind the ``.pth`` files of what workers install: what those add comes before the environment.
_PTH = "~ray-envd-environment.pth"
#: Enough to tell a session's environments apart, and short: the kernel reads 127 bytes of a first line.
_DIGITS = 16
_PIP = "import sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
#: What every virtual environment has of its own.
_OWN = frozenset({"bin", "lib64", "pyvenv.cfg", ".lock"})


class Layers:
    """Makes layers."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    async def over(self, environment: Environment, bench: Bench, field: str) -> tuple[Path, WorkerFacts]:
        """The session's layer over an environment, and how a worker starts in it; about a millisecond if new.

        Raises:
            EnvError: the disk.
        """
        entry, interpreter = environment.entry, environment.interpreter
        digest, _, generation = entry.path.name.partition(".")
        name = f"{digest[:_DIGITS]}{generation and '.'}{generation}"
        # Another object of the same name, built after this one was collected, may have other scripts.
        origin = f"{entry.path.name} {entry.created}"
        site_packages = Path(str(entry.details["site_packages"]))
        make = partial(_make, interpreter, entry.path / "venv", site_packages)
        path = await self._trees.obtain(bench.session, LAYERS, name, origin, make, bench.reporter(field))
        return path, worker_facts(path, interpreter)


def _make(
    interpreter: Interpreter, below: Path, site_packages: Path, path: Path, _stopped: Callable[[], bool]
) -> int:
    """Makes a layer; blocking, as the owner. Its bytes are not worth counting."""
    own = make_tree(interpreter, path)
    (own / _PTH).write_text(f"import site; site.addsitedir({os.fspath(site_packages)!a})\n")
    if "pip" in interpreter.installed:
        for name in ("pip", "pip3"):
            write_script(path / "bin" / name, path / "bin" / "python", _PIP)
    copy_scripts(below / "bin", path / "bin")
    _link_data(below, path, leave=site_packages)
    return 0


def _link_data(source: Path, target: Path, leave: Path) -> None:
    """Links to all files but modules and what the layer has of its own; in folders that are the layer's."""
    pending = [(source, target)]
    while pending:
        folder, place = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path, there = Path(entry.path), place / entry.name
                if path == leave or (folder == source and entry.name in _OWN):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    there.mkdir(exist_ok=True)
                    pending.append((path, there))
                else:
                    there.symlink_to(path)
