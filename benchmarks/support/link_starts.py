"""How long a link takes until its port listens: a link of its own, without a raylet and without a daemon."""

import os
import subprocess
import time
from pathlib import Path

from link_folders import put_link
from processes import NodeError, clean_environment

_DEADLINE = 20.0


class Links:
    """Starts links from a folder as attach leaves it, by an interpreter that runs Ray."""

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder, self._python = folder, python
        folder.mkdir()
        settings = {"socket": str(folder / "nobody.sock"), "ray_version": "2.60.0", "start_seconds": 60}
        put_link(folder, settings, python)

    def start(self) -> float:
        """Seconds from before the process is started until its port listens, which its port file says.

        Raises:
            NodeError: it ended instead, or did not listen in time.
        """
        port_file = self._folder / "runtime_env_agent_port_n"
        port_file.unlink(missing_ok=True)
        words = {"node-id": "n", "node-ip-address": "127.0.0.1", "runtime-env-agent-port": "0"}
        words |= dict.fromkeys(("session-dir", "log-dir", "runtime-env-dir"), str(self._folder))
        words |= {"gcs-address": "127.0.0.1:1", "cluster-id-hex": "00"}
        flags = [f"--{name}={value}" for name, value in words.items()]
        environment = clean_environment(RAY_RAYLET_PID=str(os.getpid()))
        command = [str(self._python), "-u", str(self._folder / "main.py"), *flags]
        began = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                # A look takes a few microseconds: no more than that is added to what is measured.
                while not port_file.exists():
                    if process.poll() is not None or time.perf_counter() - began > _DEADLINE:
                        raise NodeError(f"the link does not listen (exit code {process.returncode})")
                    time.sleep(0.0005)
                return time.perf_counter() - began
            finally:
                process.kill()
