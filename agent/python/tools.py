"""What the work on Python environments is done with, and the folder tree that it makes."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import uv

from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.agent.python.platform import Runner
from ray_envd.agent.redaction import Redactor
from ray_envd.cache.owner import Owner


class Report(Protocol):
    """How progress is told; called on the event loop."""

    def __call__(self, phase: str, detail: str = "", *, done: int = 0, total: int = 0) -> None:
        """Reports a step of the field's preparation."""


@dataclass(frozen=True)
class Toolbox:
    """The tools.

    Attributes:
        uv: the binary that ray-envd itself depends on.
        cache_dir: uv's cache; on the file system of the environments, so that files are linked.
        chosen_uv: one of the version that the spec asks for.
        link_mode: uv's; None for its default, which is a reflink where possible, else a hard link.
    """

    uv: str
    cache_dir: Path
    link_mode: str | None = None
    chosen_uv: str | None = None

    @property
    def program(self) -> str:
        """The uv that resolves and installs."""
        return self.chosen_uv or self.uv

    @classmethod
    def bundled(cls, cache_dir: Path, link_mode: str | None = None) -> "Toolbox":
        """The tools that ray-envd itself depends on."""
        return cls(our_uv(), cache_dir, link_mode)


@cache
def our_uv() -> str:
    """The uv that ray-envd itself depends on; blocking when it is asked first."""
    return os.fsdecode(uv.find_uv_bin())


@dataclass(frozen=True)
class Work:
    """Everything that a run of a tool needs to know.

    Attributes:
        workdir: private folder of this preparation, owned by the owner, on a path without secrets; the
            caller removes it.
        logs: folder for the full output of tools that failed.
        environment: complete, for the tools.
        redact: masks secrets; applied to every line that leaves a tool.
        run: how a tool is run, on the host or in a container.
    """

    field: str
    tools: Toolbox
    interpreter: Interpreter
    workdir: Path
    logs: Path
    environment: Mapping[str, str]
    owner: Owner
    report: Report
    redact: Callable[[str], str]
    run: Runner

    def hiding(self, secrets: frozenset[str]) -> "Work":
        """The same, with more secrets masked."""
        outer, inner = self.redact, Redactor(secrets)
        return replace(self, redact=lambda text: outer(inner(text)))


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read; blocking, inside ``acting_as``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
