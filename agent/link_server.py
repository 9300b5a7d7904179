"""The socket on which links say hello; each connection is a session for as long as it stays open."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray_envd import __version__
from ray_envd.agent.gate import bind_unix
from ray_envd.agent.hello import Hello, HelloError, receive, session_of
from ray_envd.agent.http_server import HttpServer
from ray_envd.agent.manager import Manager
from ray_envd.agent.raylet_http import RayletFace
from ray_envd.agent.sessions import Session, raylet_is_gone

_log = logging.getLogger(__name__)
#: Seconds that a recorded session has to say hello again if its raylet cannot be seen (another pid
#: namespace). One whose raylet is known to be dead ends at once, one whose raylet lives is waited for.
_RETURN_SECONDS = 60.0
_PAUSE = 0.2  # seconds
#: The kernel keeps a raylet's connection to itself until it says something, or for so long: its request,
#: which comes a moment later, is there when it is accepted, and the loop is woken once for both. What is not
#: accepted when a daemon ends stays for the next one, since the link holds the port.
_SILENT_SECONDS = 1


class LinkServer:
    """Accepts links, serves their raylets and ends their sessions."""

    def __init__(
        self,
        path: Path,
        manager: Manager,
        *,
        max_body: int,
        serves_everybody: bool,
        on_change: Callable[[], None] = lambda: None,
        on_attached: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._path, self._manager, self._max_body = path, manager, max_body
        self._serves_everybody = serves_everybody
        self._on_change, self._on_attached = on_change, on_attached
        # Their own threads: peers that connect and say nothing must not hold up anybody's work.
        self._listeners = ThreadPoolExecutor(max_workers=64, thread_name_prefix="hello")
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._faces: dict[str, HttpServer] = {}
        self.sessions: dict[str, Session] = {}

    async def start(self) -> None:
        """Listens. A daemon of root serves every user, so everybody may connect: the kernel says who."""
        self._listener = await asyncio.to_thread(
            bind_unix, self._path, 0o666 if self._serves_everybody else 0o600
        )
        self._accepting = asyncio.create_task(self._accept(), name="accept links")

    async def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - start() has set it
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # Out of descriptors, say: that passes, and links must be heard again when it has.
                _log.warning("cannot accept a link: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            task = asyncio.create_task(self._serve(connection), name="link")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            loop = asyncio.get_running_loop()
            hello = await loop.run_in_executor(self._listeners, receive, connection)
            try:
                session = self._admitted(hello)
            except HelloError:
                hello.listener.close()
                raise
            await self._attached(session, hello, connection)
        except HelloError as error:
            _log.warning("a link was refused: %s", error)
            await self._answer(connection, {"ok": False, "error": str(error), "fallback": True})
        finally:
            connection.close()

    def _admitted(self, hello: Hello) -> Session:
        if not self._serves_everybody and not hello.owner.is_current:
            raise HelloError("this daemon serves its own user only; run it as root to serve every user")
        return session_of(hello)

    async def _attached(self, session: Session, hello: Hello, connection: socket.socket) -> None:
        await self._replace(session.id)
        # From here on, the end of an earlier connection does not end this session.
        self.sessions[session.id] = session
        try:
            await self._manager.uses.start(session)
            face = HttpServer(RayletFace(session, self._manager), max_body=self._max_body)
            with contextlib.suppress(OSError):  # not TCP's
                hello.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SILENT_SECONDS)
            face.start(hello.listener)
        except BaseException:
            if self.sessions.get(session.id) is session:
                del self.sessions[session.id]
            raise
        self._faces[session.id] = face
        self._on_change()
        self._on_attached(session)
        _log.info("session %s attached: Ray %s, uid %d", session.id, session.ray_version, session.owner.uid)
        connection.setblocking(False)
        await self._answer(connection, {"ok": True, "version": __version__})
        await self._until_closed(connection)
        if self._faces.get(session.id) is face:
            await self._lost(session)

    async def _replace(self, session_id: str) -> None:
        """A link that says hello again on a new connection supersedes its old one."""
        face = self._faces.pop(session_id, None)
        if face is not None:
            await face.stop(deadline=5.0)

    async def _lost(self, session: Session) -> None:
        """Ends the session of a link that is gone, once its raylet is.

        A raylet ends soon after its link. One that goes on has stock's agent in the link's place, and workers
        that stand on objects of ours.
        """
        session.connected = False
        await self._faces.pop(session.id).stop()
        facts = await asyncio.to_thread(session.facts)
        while facts["raylet_visible"] and not await asyncio.to_thread(raylet_is_gone, facts):
            if self.sessions.get(session.id) is not session:
                return
            await asyncio.sleep(_PAUSE)
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
            await self._manager.uses.end(session.id)
            self._on_change()

    async def _answer(self, connection: socket.socket, words: Mapping[str, Any]) -> None:
        connection.setblocking(False)
        line = json.dumps({**words, "pid": os.getpid()}).encode() + b"\n"
        try:
            await asyncio.get_running_loop().sock_sendall(connection, line)
        except OSError:
            return

    async def _until_closed(self, connection: socket.socket) -> None:
        """A link is silent after its hello; the end of its connection is the end of its session."""
        loop = asyncio.get_running_loop()
        try:
            while await loop.sock_recv(connection, 4096):
                pass
        except OSError:
            return

    async def end_lost_sessions(self, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        """Ends the sessions of an earlier daemon whose raylets are gone; gives the others time to return."""
        deadline = time.monotonic() + _RETURN_SECONDS
        lost = {sid: facts for sid, facts in recorded.items() if facts.get("raylet_pid")}
        while lost:
            for session_id, facts in tuple(lost.items()):
                if session_id in self.sessions:
                    del lost[session_id]
                elif raylet_is_gone(facts) or (
                    not facts.get("raylet_visible") and time.monotonic() > deadline
                ):
                    del lost[session_id]
                    await self._manager.uses.end(session_id)
            await asyncio.sleep(0.5)

    async def stop(self, deadline: float) -> None:
        """Accepts no links, lets the raylets' requests end, and leaves every session for the next daemon."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listener is not None:
            self._listener.close()
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
        await asyncio.gather(*(face.stop(deadline) for face in self._faces.values()))
        self._faces.clear()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._listeners.shutdown(wait=False, cancel_futures=True)
