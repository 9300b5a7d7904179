"""``AdminService.Prefetch``: many runtime envs side by side, their events in one stream."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial

from ray_envd.agent import grpc_events
from ray_envd.agent.errors import EnvError
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.prefetch import Prefetcher, Wish
from ray_envd.agent.progress import Event

_Put = Callable[[pb.PrefetchEvent | None], None]


async def prefetch(
    prefetcher: Prefetcher, request: pb.PrefetchRequest
) -> AsyncGenerator[pb.PrefetchEvent, None]:
    """The steps of all, and a result or a failure of each; close it to end what is not done."""
    turn = f"prefetch-{secrets.token_hex(4)}"  # a long list must not get a turn for each of its envs
    events: asyncio.Queue[pb.PrefetchEvent | None] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_one(prefetcher, request, index, turn, events.put_nowait))
        for index in range(len(request.serialized_runtime_envs))
    ]
    left = len(tasks)
    try:
        while left:
            event = await events.get()
            if event is None:
                left -= 1
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _one(prefetcher: Prefetcher, request: pb.PrefetchRequest, index: int, turn: str, put: _Put) -> None:
    wish = Wish(
        request.serialized_runtime_envs[index],
        request.python,
        request.user,
        dict(request.environment),
        request.setup_timeout_seconds,
    )
    keep = prefetcher.pin if request.pin else prefetcher.let_be
    started = time.monotonic()
    try:
        env = await prefetcher.run(wish, partial(_tell, index, put), turn=turn, keep=keep)
    except EnvError as error:
        put(pb.PrefetchEvent(index=index, failure=grpc_events.failure(error)))
    else:
        seconds, objects = time.monotonic() - started, [key.id for key in env.objects]
        result = pb.PrefetchResult(cache_hit=not env.built, seconds=seconds, objects=objects)
        put(pb.PrefetchEvent(index=index, result=result))
    finally:
        put(None)


def _tell(index: int, put: _Put, event: Event) -> None:
    put(pb.PrefetchEvent(index=index, progress=grpc_events.progress(event)))
