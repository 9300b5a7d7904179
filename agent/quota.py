"""A session's own limits: ``RAY_RUNTIME_ENV_<FIELD>_CACHE_SIZE_GB`` of its raylet's environment.

In stock, each field of each node keeps what is unused until all of the field, used and unused, is more than
the variable says (10 GB; ``URICache._evict_if_needed`` in ``ray/_private/runtime_env/uri_cache.py``). Here
the store's own budget does that for all; a cluster that sets the variable is held to it on top, for the
objects that it brought and nobody else wants.
"""

from collections.abc import Callable, Mapping

from ray_envd.agent.envs import ReadyEnv
from ray_envd.agent.sessions import Session
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.store import Entry, Store


def excess(
    session: Session,
    ready: Mapping[str, Mapping[str, ReadyEnv]],
    store: Store,
    is_referenced: Callable[[ObjectKey], bool],
) -> list[ObjectKey]:
    """The objects that a session must let go, least recently used first. Loop-safe.

    Args:
        session: whose limits count.
        ready: the ready envs of every session; what another one could use at once stays.
        store: where sizes and uses are known.
        is_referenced: whether anybody uses an object now.
    """
    others = {
        key
        for session_id, envs in ready.items()
        if session_id != session.id
        for env in envs.values()
        for key in env.objects
    }
    gone = []
    for field, limit in session.settings.cache_bytes.items():
        entries = _entries(field, ready.get(session.id, {}), store)
        over = sum(entry.size.apparent for entry in entries) - limit
        unused = [entry for entry in entries if entry.key not in others and not is_referenced(entry.key)]
        for entry in sorted(unused, key=lambda each: each.last_used):
            if over <= 0:
                break
            over -= entry.size.apparent
            gone.append(entry.key)
    return gone


def _entries(field: str, envs: Mapping[str, ReadyEnv], store: Store) -> list[Entry]:
    keys = {
        key
        for env in envs.values()
        for key, name in zip(env.objects, env.fields, strict=True)
        if name == field
    }
    return [entry for key in keys if (entry := store.get(key)) is not None]
