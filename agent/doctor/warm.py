"""The warm file: with a wrong one a daemon does not start, and without its interpreter nothing gets warm."""

import os
from pathlib import Path

from ray_envd.agent.config import ConfigError
from ray_envd.agent.doctor.finding import Finding, fail, ok, warn
from ray_envd.agent.errors import EnvError
from ray_envd.agent.prefetch import owner_of
from ray_envd.agent.warm_file import WarmEnv, load


def warm_file(path: Path | None) -> Finding:
    """Whether it can be read, and for whom its envs are."""
    check = "warm file"
    if path is None:
        return ok(check, "none is set")
    try:
        envs = load(path)
    except ConfigError as error:
        return fail(check, str(error), error.remedy)
    faults = [fault for env in envs if (fault := _fault(env))]
    if faults:
        return warn(check, f"{path}: {'; '.join(faults)}", "correct the entries; the others are kept warm")
    return ok(check, f"{path} has {len(envs)} runtime envs")


def _fault(env: WarmEnv) -> str:
    """Why it can never be warm, as far as that is seen from here."""
    try:
        owner_of(env.wish.user)
    except EnvError as error:
        return f"{env.title}: {error.cause}"
    if env.wish.python and not os.access(env.wish.python, os.X_OK):
        return f"{env.title}: {env.wish.python} is no program"
    return ""
