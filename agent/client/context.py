"""The context of a prepared env, and starting something in it as Ray starts a worker.

Ray's side of this is ``RuntimeEnvContext.exec_worker`` and ``update_envs``: set ``env_vars`` one after the
other, each with references to what is set by then, and run ``bash -c "<command_prefix> exec <command>"``.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REFERENCE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)  # as os.path.expandvars
_UNSET = re.compile(r"\$\{[A-Z0-9_]+\}")


@dataclass(frozen=True, slots=True)
class Context:
    """What a worker is started with.

    Attributes:
        command_prefix: shell text that stands before the command.
        env_vars: set before; references are expanded then.
        py_executable: shell text that starts the env's Python.
        serialized: the JSON as it came, with all that is not here.
    """

    command_prefix: tuple[str, ...]
    env_vars: Mapping[str, str]
    py_executable: str
    serialized: str

    @classmethod
    def parse(cls, serialized: str) -> "Context":
        """Reads the JSON that a raylet would get."""
        fields: dict[str, Any] = json.loads(serialized)
        return cls(
            command_prefix=tuple(fields.get("command_prefix") or ()),
            env_vars=dict(fields.get("env_vars") or {}),
            py_executable=str(fields.get("py_executable") or "python3"),
            serialized=serialized,
        )

    def command(self, argv: Sequence[str]) -> str:
        """The shell text that runs ``argv`` in the env; a first word ``python`` is the env's Python."""
        first, *rest = argv
        start = self.py_executable if first == "python" else shlex.quote(first)
        return " ".join((*self.command_prefix, "exec", start, *map(shlex.quote, rest)))

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment to start it with: ``base`` (this process's) and ``env_vars``."""
        environment = dict(os.environ if base is None else base)
        for name, value in self.env_vars.items():
            environment[name] = _UNSET.sub("", _expanded(value, environment))
        return environment


def _expanded(value: str, environment: Mapping[str, str]) -> str:
    """os.path.expandvars, but of the given environment: what is not set stays as it stands."""
    return _REFERENCE.sub(lambda m: environment.get(m[1] or m[2], m[0]), value)
