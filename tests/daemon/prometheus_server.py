"""A real Prometheus that scrapes one daemon, twice a second."""

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import wait_until

#: The job under which the dashboard and the alerts look for daemons.
JOB = "ray-envd"
_CONFIGURATION = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: {job}
    static_configs: [{{targets: ["{target}"]}}]
"""


class QueryError(Exception):
    """Prometheus' words about a query."""


@dataclass
class Prometheus:
    """A server that keeps everything in a folder."""

    folder: Path
    rules: Path
    process: subprocess.Popen[bytes] | None = None
    url: str = ""

    def start(self, target: str) -> None:
        """Runs it on a daemon's address, and returns once it has scraped."""
        configuration = self.folder / "prometheus.yml"
        configuration.write_text(_CONFIGURATION.format(rules=self.rules, job=JOB, target=target))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        with (self.folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )
        process = self.process
        wait_until(lambda: self._is_up() or process.poll() is not None, 20, "a scrape")
        assert process.poll() is None, (self.folder / "prometheus.log").read_text()

    def _is_up(self) -> bool:
        try:
            return any(each["value"][1] == "1" for each in self.query("up"))
        except (urllib.error.URLError, QueryError):  # it starts
            return False

    def stop(self) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """An instant query's series, now or at a time in unix seconds.

        Raises:
            QueryError: it is refused.
        """
        moment = {} if at is None else {"time": str(at)}
        return list(self._get("query", query=expression, **moment)["result"])

    def alerts(self) -> dict[str, dict[str, Any]]:
        """The alert rules by their names, as Prometheus sees them."""
        groups = self._get("rules", type="alert")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def _get(self, call: str, **arguments: str) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{call}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return dict(json.load(answer)["data"])
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(f"{arguments}: {error.read().decode()}") from error
