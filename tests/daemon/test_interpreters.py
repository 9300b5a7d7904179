"""What one daemon found out about an interpreter serves the next."""

import shlex
from pathlib import Path

from daemons import Daemon
from package_world import make_wheel

from ray_envd.agent.client import Client, Created


def test_a_restarted_daemon_starts_no_python_for_a_new_session(place: Path, interpreter: str) -> None:
    """A new session asks a daemon that knows nothing but its store for a stored env: no Python is started."""
    starts = place / "starts"
    python = place / "python"
    python.write_text(f'#!/bin/sh\necho start >> {shlex.quote(str(starts))}\nexec {interpreter} "$@"\n')
    python.chmod(0o755)
    make_wheel(place / "wheels", "tiny", "1.0")
    env = {"uv": ["--no-index", f"--find-links {place / 'wheels'}", "tiny==1.0"]}
    daemon = Daemon.at(place)
    hits = []
    for _ in range(2):
        daemon.start()
        try:
            with Client(daemon.socket) as client:
                events = client.create(env, python=str(python))
                hits += [event.cache_hit for event in events if isinstance(event, Created)]
        finally:
            daemon.stop()
    assert hits == [False, True]
    assert starts.read_text().splitlines() == ["start"]
