"""The plan of a worker's start in a container: a file of mode 0600 that ``launch_script.py`` reads.

It holds the values of ``env_vars``, as the scripts of other workers do. Both scripts stand beside
the plans under names that follow their content: a plan that an earlier version wrote finds its own.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

from ray_envd.agent.context import WorkerContext
from ray_envd.agent.files import remove_private, write_private
from ray_envd.agent.sessions import Session

#: Of the image's interpreter: nothing of the worker's surroundings, and text as UTF-8 whatever its locale.
_ISOLATED = ("-I", "-S", "-X", "utf8")


def marks(runtime_env_dir: Path) -> Path:
    """The folder in which each start leaves a mark, named as its container."""
    return runtime_env_dir / "ray-envd" / "containers"


def name_prefix(session_id: str) -> str:
    """How the names of a session's containers begin; pid and start time of ``podman run`` follow."""
    return f"ray-envd-{session_id}"


def write_plan(context: WorkerContext, session: Session, env_digest: str) -> str:
    """Writes plan and scripts, and returns the worker's serialized context; blocking.

    Raises:
        OSError: they cannot be written.
    """
    folder = session.runtime_env_dir / "ray-envd"
    launcher, enter = (_script(folder, name, session) for name in ("launch_script", "enter_script"))
    path = _plan(session, env_digest)
    write_private(path, json.dumps(_plan_of(context, session, enter)), session.owner)
    return context.serialize_launch(str(launcher), str(path))


def remove_plan(session: Session, env_digest: str) -> None:
    """Removes what :func:`write_plan` wrote for one env; blocking."""
    remove_private(_plan(session, env_digest), session.owner)


def _plan(session: Session, env_digest: str) -> Path:
    # Raylets of one cluster on one machine may share the folder, and their containers have different names.
    return session.runtime_env_dir / "ray-envd" / f"{env_digest}-{session.id}.json"


def _plan_of(context: WorkerContext, session: Session, enter: Path) -> dict[str, object]:
    container = context.container
    assert container is not None  # noqa: S101 - plans are made of contexts that have one
    own = ["--preserve-fds=1", f"--entrypoint={container.python}"]
    return {
        "podman": container.podman,
        "run": [*container.arguments, *own, container.image, *_ISOLATED, str(enter)],
        "environment": dict(container.environment),
        "name": name_prefix(session.id),
        "marks": str(marks(session.runtime_env_dir)),
        "worker_path": container.worker_path,
        "set": dict(container.variables),
        "variables": dict(context.variables),
        "working_dir": context.working_dir,
        "command": context.command.words,
        "expands": context.command.expands,
    }


def _script(folder: Path, name: str, session: Session) -> Path:
    text = _text(name)
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.py"
    write_private(path, text, session.owner)
    return path


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
