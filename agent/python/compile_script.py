"""Compiles what a folder holds, so that no worker has to write into it.

Runs under the *environment's* interpreter, 3.9 or later: standard library only, no syntax newer than 3.9,
nothing of this project imported. :mod:`ray_envd.agent.python.bytecode` passes the source with ``-c``, so
that it works for users who cannot read the daemon's own files.
"""

from __future__ import annotations

import compileall
import os
import re
import sys
from py_compile import PycInvalidationMode

#: Nice value: behind whatever else runs, but not so far that a busy node never comes to it.
_NICE = 15

#: Packages' own tests: of numpy and pandas they are half of all code, and workers do not import them.
_TESTS = re.compile(re.escape(sys.argv[1]) + "(/.*)?/tests/")

os.nice(_NICE)
# What does not compile (templates, another Python's syntax) is nobody's fault.
compileall.compile_dir(
    sys.argv[1], rx=_TESTS, quiet=2, workers=1, invalidation_mode=PycInvalidationMode.TIMESTAMP
)
