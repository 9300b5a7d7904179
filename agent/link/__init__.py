"""The link: what a raylet runs in place of Ray's runtime-env agent. Never imported by the daemon.

``attach`` copies this package into ``ray/_private/runtime_env/agent/``, with bytecode, and ``script.py`` over
the ``main.py`` there, which Ray's own interpreter runs: standard library only, the syntax of Python 3.9, few
imports, and no import of ray.

It binds the raylet's port, writes the port file, hands the listening socket to the daemon with a hello
(``hello.py``) and then only watches. The raylet ends: the link ends. The daemon ends: the port stays bound,
so that the raylet's requests wait, and a new daemon hears hello again. No daemon can be had, or anything else
goes wrong: Ray's stock agent takes this process's place.
"""


class FallbackError(Exception):
    """Ray's stock agent has to take over; the text says why."""
