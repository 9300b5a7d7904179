"""Messages as they come from the daemon, made into records (messages.py)."""

from collections.abc import Sequence
from typing import Any

from ray_envd.agent.client.context import Context
from ray_envd.agent.client.errors import EnvFailedError
from ray_envd.agent.client.messages import (
    Collection,
    Created,
    EnvInfo,
    EnvInfos,
    Event,
    Listing,
    Object,
    Page,
    Prefetched,
    Prefetching,
    Progress,
    Session,
    Stats,
    User,
    Verified,
    Victim,
)
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.pb import runtime_env_pb2 as ray_pb


def event(message: pb.CreateRuntimeEnvEvent) -> Event:
    """A step or the result.

    Raises:
        EnvFailedError: it is the failure.
    """
    if message.HasField("failure"):
        raise _failed(message.failure)
    if message.HasField("result"):
        result = message.result
        context = Context.parse(result.serialized_runtime_env_context)
        return Created(context, result.cache_hit, result.seconds, tuple(result.objects))
    return _step(message.progress)


def prefetching(message: pb.PrefetchEvent) -> Prefetching:
    """A step, result or failure of one of several envs."""
    if message.HasField("failure"):
        return Prefetching(message.index, _failed(message.failure))
    if message.HasField("result"):
        result = message.result
        done = Prefetched(result.cache_hit, result.seconds, tuple(result.objects))
        return Prefetching(message.index, done)
    return Prefetching(message.index, _step(message.progress))


def _failed(failure: pb.CreateRuntimeEnvFailure) -> EnvFailedError:
    return EnvFailedError(failure.code, failure.message, transient=failure.transient)


def _step(step: pb.ProgressEvent) -> Progress:
    return Progress(step.field, step.phase, step.detail, step.done, step.total)


def stored(message: pb.Object) -> Object:
    """An object of the store."""
    return Object(
        **_same(message, "id", "kind", "summary", "bytes", "uses", "references", "pinned", "owner_uid"),
        **_same(message, "exclusive_bytes", "fetched_bytes", "damaged"),
        build_seconds=message.build_seconds,
        created=message.created_ms / 1000,
        last_used=message.last_used_ms / 1000,
    )


def session(message: pb.Session) -> Session:
    """A session."""
    same = ("id", "session_dir", "ray_version", "python", "raylet_pid", "envs", "references", "connected")
    return Session(**_same(message, *same, "owner_uid"), started=message.started_ms / 1000)


def page(message: pb.ListReply) -> Page:
    """Some objects; the sessions are on the first page."""
    found = Listing(tuple(map(stored, message.objects)), tuple(map(session, message.sessions)))
    return Page(found, message.next_page_token)


def joined(pages: Sequence[Page]) -> Listing:
    """All pages of one listing."""
    return Listing(
        tuple(each for part in pages for each in part.listing.objects),
        tuple(each for part in pages for each in part.listing.sessions),
    )


def stats(message: pb.StatsReply) -> Stats:
    """The figures."""
    return Stats(**_same(message, *Stats.__slots__))


def collection(message: pb.GcReply) -> Collection:
    """What was, or would be, collected."""
    victims = tuple(
        Victim(stored(victim.object), victim.reason, victim.frees_bytes, victim.worth)
        for victim in message.victims
    )
    return Collection(victims, message.freed_bytes, message.remaining_bytes)


def verified(message: pb.VerifyEvent) -> Verified:
    """One object's verification."""
    return Verified(
        **_same(message, "done", "total", "damage", "error"),
        object=stored(message.object),
        files=tuple(message.files),
        unlike_record=tuple(message.unlike_record),
        freed_bytes=message.freed_bytes if message.HasField("freed_bytes") else None,
        users=tuple(User(**_same(user, *User.__slots__)) for user in message.users),
    )


def infos(message: ray_pb.GetRuntimeEnvsInfoReply) -> EnvInfos:
    """Envs; what the daemon does not know is None."""
    return EnvInfos(tuple(map(_info, message.runtime_env_states)), message.total)


def _info(state: ray_pb.RuntimeEnvState) -> EnvInfo:
    return EnvInfo(
        runtime_env=state.runtime_env,
        references=state.ref_cnt,
        success=state.success if state.HasField("success") else None,
        error=state.error if state.HasField("error") else None,
        creation_seconds=state.creation_time_ms / 1000 if state.HasField("creation_time_ms") else None,
    )


def _same(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}
