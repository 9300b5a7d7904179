"""A thin virtual environment over another one: all can be had from it, and what is written stays in it.

Its site-packages are empty but for one ``.pth`` line; Python sees them, then those of the environment below,
then what that falls through to. All else is where it is in a virtual environment: scripts, rewritten to start
the layer's Python, and links to programs and data files, in folders that are the layer's own.
"""

import os
from pathlib import Path

from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.scripts import copy_scripts, write_script
from ray_envd.agent.python.shadow import make_tree

#: Sorts behind the ``.pth`` files of what is installed into the layer: what those add comes first.
_PTH = "~ray-envd-environment.pth"
_PIP = "import sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
#: What every virtual environment has of its own.
_OWN = frozenset({"bin", "lib64", "pyvenv.cfg", ".lock"})


def make_layer(interpreter: Interpreter, below: Path, target: Path) -> None:
    """Makes a layer over an overlay; about a millisecond. Blocking, inside ``acting_as``.

    Args:
        interpreter: of the overlay.
        below: the overlay.
        target: does not exist yet.

    Raises:
        OSError: it cannot be written.
    """
    site_packages = below / interpreter.purelib
    own = make_tree(interpreter, target)
    (own / _PTH).write_text(f"import site; site.addsitedir({os.fspath(site_packages)!a})\n")
    if "pip" in interpreter.installed:
        # The interpreter's own command would install into the interpreter.
        for name in ("pip", "pip3"):
            write_script(target / "bin" / name, target / "bin" / "python", _PIP)
    copy_scripts(below / "bin", target / "bin")
    _link_data(below, target, leave=site_packages)


def _link_data(source: Path, target: Path, leave: Path) -> None:
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
