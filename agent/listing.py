"""Objects and sessions as ``AdminService`` tells of them."""

import heapq
from collections.abc import Callable, Iterable

from ray_envd.agent.pb import admin_pb2 as pb
from ray_envd.agent.sessions import Session
from ray_envd.cache.collect import Collected
from ray_envd.cache.ledger import Ledger
from ray_envd.cache.records import Entry
from ray_envd.cache.references import References
from ray_envd.cache.store import Store

_GIGABYTE = 10**9


class Listing:
    """Makes messages. For threads, since it looks at every object, is what does not say otherwise."""

    def __init__(self, store: Store, references: References) -> None:
        self._store, self._references = store, references

    def one(self, entry: Entry) -> pb.Object:
        """One object. Loop-safe."""
        return self._object(entry, self._store.ledger())

    def teller(self) -> Callable[[Entry], pb.Object]:
        """Makes many messages one by one, with sizes as of now; loop-safe once it is made."""
        ledger = self._store.ledger()
        return lambda entry: self._object(entry, ledger)

    def page(self, size: int, after: str) -> tuple[list[pb.Object], str]:
        """So many objects (0: all) behind the one that a token stands for, and the next token."""
        ledger = self._store.ledger()
        names = {_token(entry): entry for entry in self._store.entries()}
        behind = [name for name in names if name > after]
        some = heapq.nsmallest(size, behind) if size > 0 else sorted(behind)
        token = some[-1] if len(some) < len(behind) else ""
        return [self._object(names[name], ledger) for name in some], token

    def collection(self, done: Collected) -> pb.GcReply:
        """What a collection did, or would do. Sizes are as of now: without those that went."""
        ledger = self._store.ledger()
        victims = [
            pb.GcVictim(
                object=self._object(victim.entry, ledger),
                reason=victim.reason,
                frees_bytes=victim.frees,
                worth=victim.worth * _GIGABYTE,
            )
            for victim in done.victims
        ]
        return pb.GcReply(victims=victims, freed_bytes=done.freed_bytes, remaining_bytes=done.remaining_bytes)

    def sessions(self, attached: Iterable[tuple[Session, int]]) -> list[pb.Session]:
        """Those that are attached, each with how many envs it has. Loop-safe.

        References are as counted on disk: of a session that is just coming back to a new daemon nothing else
        is known yet.
        """
        counted = {record.session_id: record.references for record in self._references.sessions()}
        return [
            pb.Session(
                id=session.id,
                session_dir=session.session_dir,
                ray_version=session.ray_version,
                python=session.python,
                raylet_pid=session.raylet_pid,
                started_ms=int(session.started * 1000),
                envs=envs,
                references=counted.get(session.id, 0),
                connected=session.connected,
                owner_uid=session.owner.uid,
            )
            for session, envs in attached
        ]

    def _object(self, entry: Entry, ledger: Ledger) -> pb.Object:
        return pb.Object(
            id=entry.id,
            kind=entry.key.kind,
            summary=entry.summary,
            bytes=entry.size.apparent,
            exclusive_bytes=ledger.exclusive(entry.size),
            created_ms=int(entry.created * 1000),
            last_used_ms=int(entry.last_used * 1000),
            uses=entry.uses,
            references=self._references.object_count(entry.key),
            pinned=entry.pinned,
            build_seconds=entry.build_seconds,
            fetched_bytes=entry.fetched_bytes,
            damaged=entry.damaged,
            owner_uid=entry.key.owner,
        )


def _token(entry: Entry) -> str:
    """Orders objects by owner and id."""
    return f"{entry.key.owner:010} {entry.id}"
