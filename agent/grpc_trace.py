"""``AdminService.Trace``: what happens to objects, as messages."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.trace import Happening, Trace
from ray_envd.cache.store import Entry


async def trace(source: Trace, stored: Iterable[Entry]) -> AsyncGenerator[pb.TraceEvent, None]:
    """One message a line, until the generator is closed."""
    async with aclosing(source.listen(stored)) as lines:
        async for line in lines:
            yield _event(line)


def _event(line: Happening) -> pb.TraceEvent:
    event = pb.TraceEvent(
        time=line.time,
        event=line.what,
        number=line.number,
        build_seconds=line.build_seconds,
        fetched_bytes=line.fetched_bytes,
    )
    if line.key is not None:
        event.owner_uid, event.kind, event.digest = line.key.owner, line.key.kind, line.key.digest
    if line.size is not None:
        event.bytes = line.size.private
        event.units.extend(pb.TraceUnit(id=unit.id, bytes=unit.bytes) for unit in line.size.units)
    return event
