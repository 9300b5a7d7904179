"""A container of an image in which tools run one after the other, each for milliseconds.

``podman run`` starts one process there (:mod:`ray_envd.agent.containers.serve_script`), which connects to a
socket in a folder that both see, and runs what it is told. So values of environments and arguments are in no
command line and no configuration of a container, and uv's several runs cost one start.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.errors import EnvError, HostError, ToolMissingError
from ray_envd.agent.podman.faults import failure
from ray_envd.agent.podman.host import PodmanHost
from ray_envd.agent.process import Completed, LineCallback
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.removal import remove_tree

_SCRIPT = Path(__file__).with_name("serve_script.py")
_SOCKET = "tools.sock"
_START_SECONDS = 180.0  # of a container; users' own re-own a new image's layers first
_CANCEL_SECONDS = 2.0  # for a cancelled run's container to end by itself
_END_SECONDS = 10.0  # for podman to remove one whose work is done
_NO_COMMAND, _NO_LIBRARY = 127, "error while loading shared libraries"  # ld.so(8)
_LINE_BYTES = 1024 * 1024  # a line of output, each of its characters escaped


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the host that a container has at the same path."""

    path: Path
    read_only: bool = True

    def option(self) -> str:
        """That of ``podman run``, which takes any path but one with both a colon and a comma.

        Raises:
            HostError: it has both.
        """
        path = str(self.path)
        if ":" not in path:
            return f"--volume={path}:{path}:{'ro' if self.read_only else 'rw'}"
        if "," in path:
            raise HostError(f"podman cannot mount {path}", remedy="give it a name without ':' and ','")
        return f"--mount=type=bind,source={path},destination={path}{',readonly' if self.read_only else ''}"


@dataclass(frozen=True, slots=True)
class ToolPlace:
    """Where tools run.

    Attributes:
        host: podman.
        image: its id.
        python: an interpreter in the image, 3.9 or later.
        staging: a folder of the owner for unfinished files.
        field: of the runtime env, for errors.
        passes: which of a tool's variables are passed into the container.
    """

    host: PodmanHost
    image: str
    python: str
    staging: Path
    field: str
    passes: Callable[[str, str], bool]


class _Tools:
    """The daemon's end: a Runner."""

    def __init__(
        self,
        place: ToolPlace,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        running: "asyncio.Future[Completed]",
    ) -> None:
        self._place, self._reader, self._writer, self._running = place, reader, writer, running
        self._one_at_a_time = asyncio.Lock()

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | str,
        owner: Owner,  # noqa: ARG002 - the container is its owner's
        on_line: LineCallback | None = None,
    ) -> Completed:
        """See :class:`ray_envd.agent.python.platform.Runner`. A cancelled run ends the container."""
        passed = {name: value for name, value in env.items() if self._place.passes(name, value)}
        request = {"argv": list(argv), "env": passed, "cwd": str(cwd)}
        async with self._one_at_a_time:
            try:
                self._writer.write(json.dumps(request).encode() + b"\n")
                return await self._answer(argv[0], on_line)
            except asyncio.CancelledError:
                self._writer.close()
                await asyncio.wait({self._running}, timeout=_CANCEL_SECONDS)
                raise

    async def _answer(self, program: str, on_line: LineCallback | None) -> Completed:
        lines: list[str] = []
        while raw := await self._next():
            said = json.loads(raw)
            if "line" in said:
                lines.append(said["line"])
                if on_line is not None:
                    on_line(said["line"])
            elif "error" in said:
                raise self._cannot_run(program, said["error"])
            elif lines and said["code"] == _NO_COMMAND and _NO_LIBRARY in lines[0]:
                raise self._cannot_run(program, lines[0])
            else:
                return Completed(said["code"], tuple(lines))
        # Killed from outside, or by the kernel for want of memory, the command with it.
        return Completed(-9, tuple(lines))

    def _cannot_run(self, program: str, why: str) -> EnvError:
        return ToolMissingError(
            f"{program} cannot be run in the image: {why}",
            field=self._place.field,
            remedy="use an image with glibc and libgcc_s, which uv needs: those of Debian, Ubuntu and "
            "Red Hat have them, Alpine's have not",
        )

    async def _next(self) -> bytes:
        try:
            return await self._reader.readline()
        except (ConnectionError, ValueError):
            return b""


@asynccontextmanager
async def tool_container(place: ToolPlace, mounts: Sequence[Mount]) -> AsyncIterator[_Tools]:
    """A container of an image, and what runs tools in it; nothing of it is left afterwards.

    Raises:
        EnvError: it cannot be started.
    """
    name = f"ray-envd-tools-{secrets.token_hex(8)}"
    folder = place.staging / name
    listener = await asyncio.to_thread(_listen, folder, place.host.owner)
    try:
        words = await asyncio.to_thread(_words, place, folder, mounts)
        running = asyncio.ensure_future(place.host.container(name, *words))
        tidy = False
        try:
            connection = await _connected(listener, running, place)
            reader, writer = await asyncio.open_connection(sock=connection, limit=_LINE_BYTES)
            yield _Tools(place, reader, writer, running)
            writer.close()
            tidy = await _ends(running)
        finally:
            if not tidy:
                await to_the_end(_remove(place, name, running))
    finally:
        listener.close()
        await to_the_end(asyncio.to_thread(_clear, folder, place.host.owner))


def _words(place: ToolPlace, folder: Path, mounts: Sequence[Mount]) -> list[str]:
    return [
        *(mount.option() for mount in mounts),
        "--workdir=/",
        f"--entrypoint={place.python}",
        place.image,
        "-ISc",
        _SCRIPT.read_text(),
        str(folder),
    ]


async def _connected(
    listener: socket.socket, running: "asyncio.Future[Completed]", place: ToolPlace
) -> socket.socket:
    loop = asyncio.get_running_loop()
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    try:
        either: set[asyncio.Future[Any]] = {accepting, running}
        await asyncio.wait(either, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if accepting.done():
            return accepting.result()[0]
        if running.done():
            raise failure(running.result(), "start a container for tools", field=place.field)
        raise HostError(
            f"a container for tools did not start within {_START_SECONDS:g} s",
            field=place.field,
            remedy="see why `podman run` of the image takes so long for the raylet's user",
        )
    finally:
        accepting.cancel()


async def _ends(running: "asyncio.Future[Completed]") -> bool:
    """Whether the container has gone by itself; podman removes it before it returns."""
    done, _ = await asyncio.wait({running}, timeout=_END_SECONDS)
    return bool(done) and running.exception() is None and not running.result().returncode


async def _remove(place: ToolPlace, name: str, running: "asyncio.Future[Completed]") -> None:
    if running.done():
        await place.host.remove(name)
    else:
        running.cancel()
        await asyncio.wait({running})


def _listen(folder: Path, owner: Owner) -> socket.socket:
    """A socket in a new folder that only its owner can enter."""
    with acting_as(owner):
        folder.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with acting_as(owner), _short(folder) as path:
            listener.bind(f"{path}/{_SOCKET}")
        listener.listen(1)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Another name of a folder: the path of a socket may have 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _clear(folder: Path, owner: Owner) -> None:
    with acting_as(owner), contextlib.suppress(OSError):
        remove_tree(folder)
