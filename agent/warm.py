"""Keeping warm what the warm file names: prepared at the start, pinned, and prepared again when that is gone.

All of it waits for builds as one session, which takes turns with those of raylets. What failed is tried again
for as long as the daemon lives: soon and ever later where that may help (a registry that is not up yet when
the node boots), each hour where somebody must change something first. What is there is prepared once more
when requirements that are not pinned, or tags, are due to be looked up.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from ray_envd.agent import warm_file
from ray_envd.agent.cancellation import to_the_end
from ray_envd.agent.config import ConfigError
from ray_envd.agent.errors import EnvError, Retry
from ray_envd.agent.prefetch import Prefetcher
from ray_envd.agent.progress import Event
from ray_envd.agent.warm_file import Wanted, WarmEnv
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.pins import Pins
from ray_envd.cache.store import Store

_log = logging.getLogger(__name__)
_TURN = "warm"
_SHOWN_MISSING = 20


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds between things.

    Attributes:
        look: two looks at the file, and at what is there.
        first: a failure that may pass, and the second attempt; doubled each time.
        longest: two such attempts at most.
        lasting: a failure that lasts, and the next attempt.
        refresh: two preparations of what is there.
    """

    look: float = 2.0
    first: float = 5.0
    longest: float = 300.0
    lasting: float = 3600.0
    refresh: float = 3600.0


class State(Enum):
    """Where an env of the file stands."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"  # and is tried again soon
    REFUSED = "refused"  # and somebody must change something first


@dataclass(eq=False)
class _Kept:
    """An entry at work. ``step``: what is done, or what went wrong; masked."""

    env: WarmEnv
    state: State = State.PENDING
    step: str = "waiting"
    objects: Sequence[ObjectKey] | None = None
    task: "asyncio.Task[None] | None" = None

    def hear(self, event: Event) -> None:
        """Remembers the last step."""
        self.step = event.line()


@dataclass
class Warm:
    """The envs of the file. On the event loop; what is not a coroutine returns at once.

    Attributes:
        path: the file; None: there is none, and what was pinned for an earlier one is let go.
        pauses: seconds.
    """

    prefetcher: Prefetcher
    store: Store
    pins: Pins
    path: Path | None
    thread: Callable[..., Any]
    pauses: Pauses = field(default_factory=Pauses)
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _was_warm: bool = False

    def start(self, wanted: Wanted) -> None:
        """Begins with what the file says at the daemon's start."""
        self._adopt(wanted.envs)
        self._spawn(self._watch(wanted.stamp), "watch the warm file")

    async def stop(self) -> None:
        """Ends all work and waits for its clean-up. What is pinned stays so, for the next daemon."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # what is told

    def count(self) -> dict[str, int]:
        """How many are wanted, how many of these are ready, and of how many the last attempt failed."""
        # A copy, made at once: Prometheus' figures are written in a thread.
        states = [kept.state for kept in tuple(self._kept.values())]
        failed = states.count(State.FAILED) + states.count(State.REFUSED)
        return {"wanted": len(states), "ready": states.count(State.READY), "failed": failed}

    def missing(self) -> list[str]:
        """A line for each env that is not there yet and may come; nothing once none was missing."""
        waiting = [] if self._was_warm else self._waiting()
        if not waiting:
            return []
        lines = [f"{len(waiting)} of {len(self._kept)} runtime envs are not warm"]
        lines += [f"{kept.env.title}: {kept.step}" for kept in waiting[:_SHOWN_MISSING]]
        return lines + (["..."] if len(waiting) > _SHOWN_MISSING else [])

    def _waiting(self) -> list[_Kept]:
        return [kept for kept in self._kept.values() if kept.state in {State.PENDING, State.FAILED}]

    # the file

    def _adopt(self, envs: Iterable[WarmEnv]) -> "list[asyncio.Task[None]]":
        """Begins with what is new, and ends what has left, which it returns. What failed begins anew."""
        ended = []
        wanted = {env.digest: env for env in envs}
        failed = {State.FAILED, State.REFUSED}
        for digest, kept in tuple(self._kept.items()):
            if digest not in wanted or kept.state in failed:
                del self._kept[digest]
                if kept.task is not None:
                    kept.task.cancel()
                    ended.append(kept.task)
        for digest, env in wanted.items():
            kept = self._kept.setdefault(digest, _Kept(env))
            kept.env = env  # it may have another name now
            if kept.task is None:
                kept.task = self._spawn(self._keep(kept), f"warm {env.title}")
        return ended

    async def _watch(self, stamp: tuple[int, ...]) -> None:
        if self._kept:
            _log.info("%d runtime envs of %s are to be kept warm", len(self._kept), self.path)
        await self._let_go()
        while self.path is not None:
            await asyncio.sleep(self.pauses.look)
            before, stamp = stamp, await self.thread(warm_file.stamp, self.path)
            if stamp != before:
                await self._reread(self.path)

    async def _reread(self, path: Path) -> None:
        try:
            envs = await self.thread(warm_file.load, path)
        except ConfigError as error:
            _log.error("%s; what it said before still holds; remedy: %s", error, error.remedy)
            return
        ended = self._adopt(envs)
        _log.info("%s has changed: %d runtime envs are to be kept warm", path, len(self._kept))
        if ended:
            await asyncio.wait(ended)  # they may be pinning
        await self._let_go()

    async def _let_go(self) -> None:
        """Unpins what only those wanted that have left the file."""
        try:
            await self.thread(
                self.pins.retain, [digest for digest, kept in self._kept.items() if kept.env.pin]
            )
        except OSError as error:
            _log.warning("what has left the warm file is still pinned: %s", error)

    # one env

    async def _keep(self, kept: _Kept) -> None:
        pause = self.pauses.first
        while True:
            retry = await self._attempt(kept)
            self._was_warm = self._was_warm or not self._waiting()
            if retry is None:
                pause = self.pauses.first
                await self._while_it_stands(kept)
            elif retry is Retry.PERMANENT:
                await asyncio.sleep(self.pauses.lasting)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, self.pauses.longest)

    async def _attempt(self, kept: _Kept) -> Retry | None:
        """Prepares it; returns of which kind its failure was."""
        keep = partial(self._pin, kept.env.digest) if kept.env.pin else self.prefetcher.let_be
        try:
            made = await self.prefetcher.run(kept.env.wish, kept.hear, turn=_TURN, keep=keep)
        except EnvError as error:
            self._failed(kept, error)
            return error.retry
        if kept.state is not State.READY or made.built:
            _log.info("warm: %s is %s", kept.env.title, "built" if made.built else "there")
        kept.objects, kept.state, kept.step = made.objects, State.READY, ""
        return None

    def _failed(self, kept: _Kept, error: EnvError) -> None:
        kept.step = str(error).partition("\n")[0]
        lasts = error.retry is Retry.PERMANENT
        if not self._stands(kept):  # else what was made before still serves
            kept.state = State.REFUSED if lasts else State.FAILED
        level = logging.ERROR if lasts else logging.WARNING
        _log.log(level, "warm: %s: %s", kept.env.title, error)

    async def _pin(self, name: str, keys: Sequence[ObjectKey]) -> None:
        await to_the_end(self.thread(self.pins.take, name, keys))

    async def _while_it_stands(self, kept: _Kept) -> None:
        """Until it must be prepared again; what is not pinned may be collected, and never is."""
        if not kept.env.pin:
            await asyncio.Event().wait()
        loop = asyncio.get_running_loop()
        due = loop.time() + self.pauses.refresh
        while loop.time() < due:
            if not self._stands(kept):
                kept.state, kept.step = State.PENDING, "it is damaged, or was unpinned"
                return
            await asyncio.sleep(self.pauses.look)

    def _stands(self, kept: _Kept) -> bool:
        if kept.objects is None:
            return False
        entries = [self.store.get(key) for key in kept.objects]
        return all(entry is not None and (entry.pinned or not kept.env.pin) for entry in entries)
