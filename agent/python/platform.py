"""On what an environment is built: an interpreter, and how tools run beside it.

Usually both are the host's. Where a runtime env names an image they are the image's: paths of the interpreter
are paths inside of it, and tools run in a container of it. The store and the folders of the session have the
same paths in both, so that everything else is the same for both.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ray_envd.agent import process
from ray_envd.agent.process import Completed, LineCallback
from ray_envd.agent.python.interpreter import Interpreter
from ray_envd.cache.owner import Owner


class Runner(Protocol):
    """Runs one tool to its end; the contract is that of :func:`ray_envd.agent.process.run`."""

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | str,
        owner: Owner,
        on_line: LineCallback | None = None,
    ) -> Completed:
        """Returns how it ended."""


class Platform(Protocol):
    """An interpreter and its surroundings."""

    @property
    def interpreter(self) -> Interpreter:
        """What environments stand on."""

    @property
    def image(self) -> str:
        """The id of the image in which the interpreter is; empty for the host."""

    def tools(
        self, owner: Owner, *, read: Sequence[Path], write: Sequence[Path]
    ) -> AbstractAsyncContextManager[Runner]:
        """A place where tools run beside the interpreter; everything in it ends with the context.

        Args:
            owner: who runs them. His folder of the store can be written there.
            read: what else of the host must be seen there, at the same paths; those that are there.
            write: the same for what tools write into.

        Raises:
            EnvError: it cannot be had.
        """


@dataclass(frozen=True)
class HostPlatform:
    """The host's own."""

    interpreter: Interpreter
    image: str = ""

    @asynccontextmanager
    async def tools(
        self,
        owner: Owner,  # noqa: ARG002 - everything of the host is there already
        *,
        read: Sequence[Path],  # noqa: ARG002 - as above
        write: Sequence[Path],  # noqa: ARG002 - as above
    ) -> AsyncIterator[Runner]:
        """Everything of the host is there already."""
        yield process.run
