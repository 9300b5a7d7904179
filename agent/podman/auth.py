"""Users and passwords of registries, where podman's service does not look for them itself.

The service reads the usual files of its user (containers-auth.json(5)), but not the one that
``REGISTRY_AUTH_FILE`` names: that is a matter of the command line, and so of its callers.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_envd.agent.podman.records import Credentials


def credentials(environment: Mapping[str, str], name: str) -> Credentials | None:
    """Those for an image; None where podman has to find them. Blocking; call as the file's owner.

    Args:
        environment: podman's own.
        name: registry and repository.
    """
    file = environment.get("REGISTRY_AUTH_FILE")
    if not file:
        return None
    try:
        known = json.loads(Path(file).read_bytes())["auths"]
        parts = name.split("/")
        # The longest name that fits: of the repository, of those above it, of the registry.
        fitting = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((_decoded(known[each]) for each in fitting if known.get(each)), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # podman says what it misses


def _decoded(entry: Mapping[str, Any]) -> Credentials | None:
    username, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    return Credentials(username, password) if colon else None
