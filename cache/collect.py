"""Collection: a plan carried out, object by object, while everything else goes on."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from ray_envd.cache.errors import InUseError, NotFoundError
from ray_envd.cache.gc import Limits, Victim, plan
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Entry
from ray_envd.cache.references import References
from ray_envd.cache.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or would do.

    Attributes:
        victims: the objects that went.
        freed_bytes: what their removal freed on disk; of a dry run, what it should free.
        remaining_bytes: what is left, with the bytes that are no objects.
    """

    victims: tuple[Victim, ...]
    freed_bytes: int
    remaining_bytes: int


def collect(
    store: Store,
    references: References,
    limits: Limits,
    *,
    now: float,
    target: int | None = None,
    dry_run: bool = False,
    uv_cache_bytes: int = 0,
) -> Collected:
    """Plans and carries out a collection; blocking. See :func:`ray_envd.cache.gc.plan` for the arguments.

    ``uv_cache_bytes`` is what uv's caches hold. They will give up what only they and a victim have, so the
    plan counts it as freed; the caller sees to it.

    Between plan and deed an object may have come into use: it is asked again, under the store's lock, and
    stays. One that cannot be deleted does not keep the others.
    """

    def busy(key: ObjectKey) -> bool:
        return references.is_referenced(key) or store.is_held(key)

    ledger = store.ledger()
    planned = plan(
        store.entries(),
        ledger=ledger.without_outside(),
        busy=busy,
        limits=limits,
        now=now,
        target=target,
        extra_bytes=max(0, uv_cache_bytes - ledger.outside),
    )
    if dry_run:
        return Collected(planned.victims, planned.freed, planned.remaining)
    gone, freed = _remove_all(store, references, planned.victims)
    return Collected(gone, freed, store.stored_bytes() + uv_cache_bytes)


def _remove_all(
    store: Store, references: References, victims: Iterable[Victim]
) -> tuple[tuple[Victim, ...], int]:
    """Removes what still may go; returns what has gone, and the bytes that this freed."""
    gone, freed = [], 0
    for victim in victims:
        key = victim.entry.key
        try:
            freed += remove(store, references, victim.entry)
        except (InUseError, NotFoundError) as error:
            _log.info("not collected: %s", error)
        except OSError as error:
            _log.warning("%s of uid %d could not be deleted: %s", key.id, key.owner, error)
        else:
            gone.append(victim)
    return tuple(gone), freed


def remove(store: Store, references: References, entry: Entry) -> int:
    """Removes one object that nobody uses; returns the bytes that this freed; blocking.

    Raises:
        NotFoundError, InUseError, OSError: as for ``Store.evict``.
    """
    if entry.damaged:
        return store.evict_damaged(entry.key, entry.generation, references.is_referenced)
    return store.evict(entry.key, references.is_referenced)
