"""Deploys Serve applications, each in its own image: ``deploy.py APPS.json [NAME…]``.

The file is a list of applications: ``name`` (and route), ``package`` (its version is told),
``runtime_env``, and if wanted ``replicas``: a number, or Serve's autoscaling_config. With names
only those are deployed, since Serve replaces every replica of what it is given, changed or not.
The last line is JSON: how each stands.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

_WAIT = float(os.environ.get("DEPLOY_SECONDS", "300"))
_SETTLED = {"RUNNING", "DEPLOY_FAILED", "UNHEALTHY"}


@serve.deployment
class App:
    """Tells in which image it runs, and which version of a package it found there."""

    def __init__(self, name: str, package: str) -> None:
        """Imports the package, as a model would its framework."""
        self.name, self.package = name, package
        importlib.import_module(package.replace("-", "_"))

    def __call__(self, _request: Any) -> dict[str, Any]:
        """The answer to every request, as JSON."""
        wanted = [self.package, *json.loads(os.environ.get("ALSO_TELL", "[]"))]
        return {
            "app": self.name,
            "image": os.environ.get("APP_IMAGE", "none"),
            "versions": {name: importlib.metadata.version(name) for name in wanted},
            "files": sorted(each.name for each in Path.cwd().iterdir()),
            "pid": os.getpid(),
        }


def target(app: dict[str, Any]) -> serve.RunTarget:
    """What Serve runs for an application."""
    runtime_env, replicas = app["runtime_env"], app.get("replicas", 1)
    scale = {"autoscaling_config": replicas} if isinstance(replicas, dict) else {"num_replicas": replicas}
    deployment = App.options(
        ray_actor_options={"num_cpus": app.get("cpus", 0.1), "runtime_env": runtime_env},
        # The new replica answers before the old one goes.
        max_surge_percent=100,
        max_constructor_retry_count=1,
        **scale,
    )
    name = app["name"]
    return serve.RunTarget(deployment.bind(name, app["package"]), name=name, route_prefix=f"/{name}")


def settle(names: list[str]) -> dict[str, Any]:
    """Waits until each application runs or has failed; says which, and why."""
    deadline = time.monotonic() + _WAIT
    while True:
        found = {name: status for name, status in serve.status().applications.items() if name in names}
        if len(found) == len(names) and all(status.status in _SETTLED for status in found.values()):
            break
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return {name: {"status": each.status, "message": reason(each)} for name, each in found.items()}


def reason(status: Any) -> str:
    """Why an application does not run."""
    messages = [status.message, *(each.message for each in status.deployments.values())]
    return "\n".join(message for message in messages if message)


def main() -> int:
    """Deploys; exit code 1 if an application does not run."""
    path, *names = sys.argv[1:]
    apps = [app for app in json.loads(Path(path).read_text()) if not names or app["name"] in names]
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ.get("SERVE_PORT", "8000"))})
    serve.run_many([target(app) for app in apps], wait_for_applications_running=False)
    found = settle([app["name"] for app in apps])
    print(json.dumps(found), flush=True)
    return int(any(each["status"] != "RUNNING" for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
