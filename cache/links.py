"""To which object a request was resolved: the upper of the two levels of keys."""

import threading
from collections.abc import Iterable, Mapping

from ray_envd.cache.catalog import LINKS, Catalog, link_name
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.records import Link

_MOST = 1000  # of one object; the oldest go first


class Links:
    """Every user's links. In memory, and written through.

    Methods whose name begins with ``locked`` want the store's lock, so that a link never outlives its object.
    """

    def __init__(self, links: dict[tuple[int, str], Link], lock: threading.Lock, catalog: Catalog) -> None:
        self._links, self._lock, self._catalog = links, lock, catalog
        self._of: dict[ObjectKey, dict[str, None]] = {}
        for (_, digest), link in links.items():
            self._of.setdefault(link.key, {})[digest] = None

    def get(self, owner: int, request_digest: str) -> Link | None:
        """A user's link. Loop-safe."""
        with self._lock:
            return self._links.get((owner, request_digest))

    def locked_set(self, request_digest: str, link: Link) -> list[str]:
        """Adds or replaces a link; returns the digests of those that had to go for it."""
        owner = link.key.owner
        self._drop(owner, request_digest)
        self._links[owner, request_digest] = link
        digests = self._of.setdefault(link.key, {})
        digests[request_digest] = None
        dropped = list(digests)[: max(0, len(digests) - _MOST)]
        for digest in dropped:
            self._drop(owner, digest)
        return dropped

    def locked_drop_object(self, key: ObjectKey) -> list[str]:
        """Drops every link to an object; returns their digests."""
        digests = list(self._of.get(key, ()))
        for digest in digests:
            self._drop(key.owner, digest)
        return digests

    def _drop(self, owner: int, request_digest: str) -> None:
        old = self._links.pop((owner, request_digest), None)
        if old is None:
            return
        digests = self._of[old.key]
        del digests[request_digest]
        if not digests:
            del self._of[old.key]

    def write(self, request_digest: str, link: Link) -> None:
        """Writes a link through; blocking."""
        row = [link.key.kind, link.key.digest, link.expires]
        self._catalog.put(LINKS, link_name(link.key.owner, request_digest), row)

    def forget(self, owner: int, digests: Iterable[str]) -> None:
        """Removes links from the catalog; blocking."""
        self._catalog.drop((LINKS, link_name(owner, digest)) for digest in digests)


def read_links(rows: Mapping[str, object], objects: Iterable[ObjectKey]) -> dict[tuple[int, str], Link]:
    """The links that the catalog holds, as far as they are whole and their objects are there."""
    there, links = frozenset(objects), {}
    for name, row in rows.items():
        uid, _, request_digest = name.partition("/")
        if not isinstance(row, list) or len(row) != 3 or not uid.isdecimal():  # noqa: PLR2004 - as written above
            continue
        kind, digest, expires = row
        try:
            key = ObjectKey(int(uid), str(kind), str(digest))
        except ValueError:
            continue
        if key in there and (expires is None or isinstance(expires, int | float)):
            links[key.owner, request_digest] = Link(key, expires)
    return links
