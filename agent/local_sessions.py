"""Sessions of callers that are no raylet: the command line, a benchmark, a raylet of Ray 2.6 over gRPC."""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.manager import Manager
from ray_envd.agent.sessions import Session, SessionSettings
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.removal import remove_tree
from ray_envd.cache.store import Store

#: Of the daemon itself: callers of the old gRPC protocol say no hello and never end.
GRPC_SESSION = "grpc"
_EVERYBODYS = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


class LocalSessions:
    """Makes and ends them. They belong to the daemon's own user, or to one for whom root prepares."""

    def __init__(self, manager: Manager, store: Store, python: str | None) -> None:
        self._manager, self._store, self._python = manager, store, python
        self._grpc: Session | None = None
        self._starting = asyncio.Lock()

    async def grpc(self) -> Session:
        """The session of all callers of ``ray.rpc.RuntimeEnvService``; its references last until deleted."""
        async with self._starting:
            if self._grpc is None:
                session = await self._make(GRPC_SESSION, self._python, os.environ, Owner.current())
                await self._manager.uses.start(session)
                self._grpc = session
        return self._grpc

    async def end_lost(self, session_id: str, facts: Mapping[str, Any]) -> None:
        """Ends a temporary session of an earlier daemon: its caller went with it."""
        await self._manager.uses.end(session_id)
        current = Owner.current()
        owner = Owner(int(facts.get("owner_uid", current.uid)), int(facts.get("owner_gid", current.gid)))
        folder = await asyncio.to_thread(_folder, self._store, owner, session_id)
        await asyncio.to_thread(_remove, folder, owner)

    @asynccontextmanager
    async def temporary(
        self, python: str, environment: Mapping[str, str], *, owner: Owner | None = None, turn: str = ""
    ) -> AsyncIterator[Session]:
        """A session for one caller: when the block ends, its references and its trees are gone.

        Args:
            python: the interpreter; empty: the daemon's default.
            environment: what tools see besides the user's own environment.
            owner: the user; None: the daemon's own. Another one needs a daemon of root.
            turn: see :class:`Session`.
        """
        owner = owner or Owner.current()
        own = os.environ if owner.is_current else await asyncio.to_thread(_environment_of, owner)
        session = await self._make(
            f"local-{secrets.token_hex(8)}", python or self._python, {**own, **environment}, owner, turn
        )
        await self._manager.uses.start(session)
        try:
            yield session
        finally:
            await asyncio.shield(self._end(session))

    async def _end(self, session: Session) -> None:
        await self._manager.uses.end(session.id)
        await asyncio.to_thread(_remove, session.runtime_env_dir, session.owner)

    async def _make(
        self,
        session_id: str,
        python: str | None,
        environment: Mapping[str, str],
        owner: Owner,
        turn: str = "",
    ) -> Session:
        interpreter = python or shutil.which("python3")
        if interpreter is None:
            raise InvalidSpecError(
                "no interpreter is known for this call",
                remedy="name one (`--python PATH`), or set the daemon's `python`",
            )
        folder = await asyncio.to_thread(_folder, self._store, owner, session_id)
        return Session(
            id=session_id,
            owner=owner,
            python=interpreter,
            environment=dict(environment),
            runtime_env_dir=folder,
            settings=SessionSettings.of(environment),
            turn=turn,
        )


def _environment_of(owner: Owner) -> dict[str, str]:
    """What another user's tools see; the daemon's own environment may hold what is root's alone."""
    plain = {name: os.environ[name] for name in _EVERYBODYS if name in os.environ}
    found = {**plain, "HOME": owner.home, "USER": owner.name, "LOGNAME": owner.name}
    runtime = Path(f"/run/user/{owner.uid}")
    if runtime.is_dir():
        found["XDG_RUNTIME_DIR"] = str(runtime)
    return found


def _folder(store: Store, owner: Owner, session_id: str) -> Path:
    folder = store.user_dir(owner).staging.parent / "local" / session_id
    with acting_as(owner):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _remove(folder: Path, owner: Owner) -> None:
    with acting_as(owner), contextlib.suppress(OSError):
        remove_tree(folder)
