"""What an interpreter is and what it can import, as one line of JSON on standard output.

Runs under the *raylet's* interpreter, 3.9 or later, whose packages are unknown: standard library only, no
syntax newer than 3.9, nothing of this project imported. :mod:`ray_envd.agent.python.interpreter` passes the
source with ``-c``, so that it works for users who cannot read the daemon's own files.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import site
import sys
import sysconfig
from typing import Any


def _absolute(path: str) -> str:
    """As :mod:`site` makes a path absolute: symbolic links stay, they may be what a later upgrade moves."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve() would follow the links


def _site_candidates() -> list[str]:
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [_absolute(path) for path in (*user, *site.getsitepackages())]


def _distributions() -> dict[str, dict[str, Any]]:
    """Every distribution on sys.path; of two with one name the first, the one that is imported."""
    found: dict[str, dict[str, Any]] = {}
    for dist in importlib.metadata.distributions(path=[entry for entry in sys.path if entry]):
        name, version = dist.metadata["Name"], dist.metadata["Version"]
        if not name or not version:
            continue  # a left-over folder without metadata
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key not in found:
            found[key] = {
                "name": key,
                "version": version,
                "requires": dist.requires or [],
                "extras": dist.metadata.get_all("Provides-Extra") or [],
                "requires_python": dist.metadata["Requires-Python"],
                "direct_url": dist.read_text("direct_url.json"),
            }
    return found


def _ray(found: dict[str, dict[str, Any]]) -> tuple[str | None, str | None]:
    """Where Ray is and its version, also where it runs from a source tree without a distribution."""
    spec = importlib.util.find_spec("ray")
    if spec is None or not spec.submodule_search_locations:
        return None, None
    path = next(iter(spec.submodule_search_locations))
    if "ray" in found:
        return found["ray"]["version"], path
    try:
        with open(f"{path}/_version.py") as stream:
            match = re.search(r"^version\s*=\s*[\"']([^\"']+)", stream.read(), re.MULTILINE)
    except OSError:
        match = None
    return (match.group(1) if match else None), path


def _markers() -> dict[str, str]:
    """The environment of PEP 508 markers."""
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def _stamps(paths: list[str]) -> dict[str, list[int] | None]:
    stamps: dict[str, list[int] | None] = {}
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - one call a path; pathlib is slow to start
        except OSError:
            stamps[path] = None
        else:
            # The time of change too, which nobody can set: images may give all files one date.
            stamps[path] = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return stamps


def _main() -> None:
    candidates = _site_candidates()
    on_path = [_absolute(entry) for entry in sys.path if entry]
    # What may change what is importable: also folders that do not exist yet (a user site), and PYTHONPATH's.
    # Stamped before anything is read, so that a change while we read is noticed at the next request.
    watched = {sys.executable, f"{sys.prefix}/pyvenv.cfg", *candidates, *on_path}
    stamps = _stamps(sorted(watched))
    scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
    found = _distributions()
    ray_version, ray_path = _ray(found)
    facts = {
        "version": platform.python_version(),
        "implementation": sys.implementation.name,
        "abi": sysconfig.get_config_var("SOABI") or "",
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "base_executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        "purelib": sysconfig.get_path("purelib", scheme, {"base": "", "platbase": ""}).lstrip("/"),
        "site_dirs": [entry for entry in on_path if entry in candidates],
        "stamps": stamps,
        "markers": _markers(),
        "distributions": sorted(found.values(), key=lambda dist: dist["name"]),
        "ray_version": ray_version,
        "ray_path": ray_path,
    }
    sys.stdout.write("\nray-envd-probe:" + json.dumps(facts) + "\n")


if __name__ == "__main__":
    _main()
