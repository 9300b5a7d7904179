"""``AdminService.Verify``: verdicts as messages, with those who stand on what is damaged."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from ray_envd.agent.integrity.verification import Verdict, Verification
from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.references import References
from ray_envd.cache.store import Entry


async def verify(
    verification: Verification,
    references: References,
    entries: Sequence[Entry],
    shown: Callable[[Entry], pb.Object],
    *,
    repair: bool,
) -> AsyncGenerator[pb.VerifyEvent, None]:
    """One event an object, in the order in which they are done."""
    done = 0
    async with aclosing(verification.run(entries, repair=repair)) as verdicts:
        async for verdict in verdicts:
            done += 1
            event = _event(verdict, shown(verdict.entry))
            event.done, event.total = done, len(entries)
            if verdict.reason:
                event.users.extend(_users(references, verdict.entry.key))
            yield event


def _event(verdict: Verdict, shown: pb.Object) -> pb.VerifyEvent:
    return pb.VerifyEvent(
        object=shown,
        damage=verdict.reason,
        files=verdict.files,
        unlike_record=verdict.unlike,
        error=verdict.error,
        freed_bytes=verdict.freed_bytes,
    )


def _users(references: References, key: ObjectKey) -> list[pb.VerifyUser]:
    """The envs with references that stand on a key, in whichever generation."""
    return [
        pb.VerifyUser(
            session_id=session.session_id,
            session_dir=str(session.facts.get("session_dir", "")),
            runtime_env=str(env.summary.get("runtime_env", "")),
            references=env.count,
        )
        for session in references.sessions()
        for env in references.envs(session.session_id)
        if env.count and key in env.objects
    ]
