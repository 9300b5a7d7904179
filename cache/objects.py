r"""The state of every object in memory: absent, being built, stored, leaving.

::

    absent -> building -> stored -> leaving -> absent
                 \-> absent    \-> damaged -> absent

A damaged object has its folder still, while its key is absent and can be built anew, in another generation's
folder. Of each object one knows which files it shares with others, and so what its removal would free.

Everything here is loop-safe but :meth:`Objects.announce`: the lock is held for operations in memory only, and
the files of a key are worked on, outside of it, by the one thread that moved the key to building or leaving.
Lock order: this lock first, whatever ``is_referenced`` takes second.

Requests are linked to the objects that they were resolved to: the upper of the two levels of keys.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ray_envd.cache.errors import InUseError, NotFoundError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.ledger import Ledger
from ray_envd.cache.past import Past
from ray_envd.cache.records import Build, Entry, Facts, Link, Object
from ray_envd.cache.sharing import Sharing

_MOST_LINKS = 1000  # of one object; the oldest go first


class Objects:
    """The table of objects.

    Attributes:
        lock: guards the table and what is in it.
    """

    def __init__(self, stored: dict[ObjectKey, Object], damaged: Iterable[Object]) -> None:
        self.lock = threading.Lock()
        self._left = threading.Condition(self.lock)
        self._stored = stored
        self._damaged = {(each.key, each.facts.generation): each for each in damaged}
        self._touched: set[ObjectKey] = set()
        self._building: dict[ObjectKey, Build] = {}
        self._leaving: set[ObjectKey] = set()
        self._linked: dict[tuple[int, str], ObjectKey] = {}
        self._sharing = Sharing()
        self._past = Past()
        for each in self._all():
            self._sharing.add(each)
        for each in stored.values():
            self._index_links(each)

    def _all(self) -> list[Object]:
        return [*self._stored.values(), *self._damaged.values()]

    @property
    def bytes(self) -> int:
        """Of all objects and of those that are being deleted, shared files once. Loop-safe, and quick."""
        return self._sharing.total

    def ledger(self) -> Ledger:
        """Who shares what."""
        with self.lock:
            return self._sharing.ledger()

    def samples(self) -> list[tuple[str, Object, str]]:
        """Of each unit of shared files its id, an object that has it, and a file of it there."""
        with self.lock:
            return self._sharing.samples()

    def note_links(self, links: Mapping[str, int]) -> None:
        """Takes in how many links the samples of units have now."""
        with self.lock:
            self._sharing.note_links(links)

    def note_foreign(self, foreign: Mapping[str, bool]) -> None:
        """Takes in which units that stand outside of the store others have as well."""
        with self.lock:
            self._sharing.note_foreign(foreign)

    def get(self, key: ObjectKey) -> Entry | None:
        """The object, if it is stored."""
        with self.lock:
            found = self._stored.get(key)
        return None if found is None else found.entry

    def _present(self, key: ObjectKey) -> Object:
        found = self._stored.get(key)
        if found is None:
            raise NotFoundError(f"no object {key.id}")
        return found

    def entries(self) -> list[Entry]:
        """All objects, damaged ones included."""
        with self.lock:
            stored = self._all()
        # Outside of the lock: with ten thousand objects this is milliseconds, and a hit must not wait.
        return [each.entry for each in stored]

    def take_touched(self) -> list[Object]:
        """The objects used since the last call."""
        with self.lock:
            touched, self._touched = self._touched, set()
            return [self._stored[key] for key in touched if key in self._stored]

    # holds

    def hold(self, key: ObjectKey) -> Entry | None:
        """Adds a hold and counts a use; None if the object is not stored."""
        with self.lock:
            found = self._stored.get(key)
            if found is None:
                return None
            found.holds += 1
            found.touch(time.time())
            self._touched.add(key)
            return found.entry

    def use(self, keys: Sequence[ObjectKey], generations: Sequence[int], then: Callable[[], object]) -> bool:
        """Calls ``then`` while none of these can go, and counts a use of each; False if one is not stored so.

        ``then`` is called under the lock, as ``is_referenced`` is.
        """
        with self.lock:
            found = [self._stored.get(key) for key in keys]
            for each, generation in zip(found, generations, strict=True):
                if each is None or each.facts.generation != generation:
                    return False
            then()
            now = time.time()
            for each in found:
                if each is not None:
                    each.touch(now)
            self._touched.update(keys)
        return True

    def rest(self, key: ObjectKey) -> None:
        """The last who refers to an object is going: it was in use until now."""
        with self.lock:
            found = self._stored.get(key)
            if found is not None:
                found.rest(time.time())
                self._touched.add(key)

    def keep(self, key: ObjectKey) -> Object:
        """Adds a hold for the store's own work; no use is counted.

        Raises:
            NotFoundError: the object is not stored.
        """
        with self.lock:
            found = self._present(key)
            found.holds += 1
            return found

    def unhold(self, key: ObjectKey, generation: int) -> None:
        """Takes a hold away; from a damaged object too, if the hold is older than the damage.

        Raises:
            InUseError: there is none; somebody counts wrongly.
        """
        with self.lock:
            found = self._stored.get(key)
            if found is None or found.facts.generation != generation:
                found = self._damaged.get((key, generation))
            if found is None or not found.holds:
                raise InUseError(f"{key.id} is not held")
            found.holds -= 1

    def is_held(self, key: ObjectKey) -> bool:
        """Whether the object has a hold."""
        with self.lock:
            found = self._stored.get(key)
            return found is not None and found.holds > 0

    # absent -> building -> stored or absent

    def announce(self, build: Build) -> None:
        """Absent to building; waits while the key is leaving, since it has the folder until then.

        Raises:
            InUseError: the key is being built, or stored.
        """
        with self._left:
            self._left.wait_for(lambda: build.key not in self._leaving)
            if build.key in self._building or build.key in self._stored:
                raise InUseError(f"{build.key.id} is being built, or is there already")
            self._building[build.key] = build

    def free_generation(self, key: ObjectKey) -> int:
        """The first of a key's folders that no damaged object has."""
        with self.lock:
            taken = {generation for other, generation in self._damaged if other == key}
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def is_building(self, build: Build) -> bool:
        """Whether this very build is under way."""
        with self.lock:
            return self._building.get(build.key) is build

    def past(self, key: ObjectKey, now: float) -> tuple[float, float]:
        """How warm an object of this key still is that was evicted, and since when it was used.

        See :mod:`ray_envd.cache.past`.
        """
        with self.lock:
            return self._past.heat(key, now), self._past.since(key, now)

    def give_up(self, build: Build) -> None:
        """Building to absent."""
        with self.lock:
            del self._building[build.key]

    def publish(self, committed: Object, links: Mapping[str, int]) -> Entry:
        """Building to stored. ``links``: how many links the samples of its units have."""
        with self.lock:
            del self._building[committed.key]
            self._stored[committed.key] = committed
            self._sharing.add(committed)
            self._sharing.note_links(links)
            return committed.entry

    def change(self, found: Object, facts: Facts, fingerprint: list[int], links: Mapping[str, int]) -> None:
        """Replaces what is known of a stored object that is held; ``links`` as for :meth:`publish`."""
        with self.lock:
            resized = found.facts.size != facts.size
            if resized:
                self._sharing.drop(found)
            found.facts, found.fingerprint = facts, fingerprint
            if resized:
                self._sharing.add(found)
                self._sharing.note_links(links)

    # stored -> leaving -> absent or stored

    def take_out(self, key: ObjectKey, is_referenced: Callable[[ObjectKey], bool]) -> Object:
        """Stored to leaving.

        Raises:
            NotFoundError: it is not stored.
            InUseError: it is held, pinned, referenced or being built.
        """
        with self.lock:
            if key in self._building:
                raise InUseError(f"{key.id} is being built")
            found = self._present(key)
            if found.facts.pinned:
                raise InUseError(f"{key.id} is pinned")
            if found.holds or is_referenced(key):
                raise InUseError(f"{key.id} is in use")
            self._leaving.add(key)
            for digest in found.links:
                del self._linked[key.owner, digest]
            return self._stored.pop(key)

    def put_back(self, gone: Object) -> None:
        """Leaving to stored: it could not be unpublished."""
        with self._left:
            self._stored[gone.key] = gone
            self._index_links(gone)
            self._leaving.discard(gone.key)
            self._left.notify_all()

    def left(self, key: ObjectKey) -> None:
        """Leaving to absent: its folder is another's to have."""
        with self._left:
            self._leaving.discard(key)
            self._left.notify_all()

    def deleted(self, gone: Object) -> None:
        """What has left takes no more space."""
        with self.lock:
            self._sharing.drop(gone)
            self._past.note(gone.key, gone.heat, gone.last_used, gone.since)

    # stored -> damaged -> absent

    def condemn(self, key: ObjectKey, facts: Facts) -> Object:
        """Stored to damaged, for good; its links are forgotten.

        Raises:
            NotFoundError: it is not stored, or not in this generation.
        """
        with self.lock:
            found = self._present(key)
            if found.facts.generation != facts.generation:
                raise NotFoundError(f"no object {key.id}")
            for digest in found.links:
                del self._linked[key.owner, digest]
            found.links.clear()
            found.facts = facts
            self._damaged[key, facts.generation] = found
            return self._stored.pop(key)

    def take_out_damaged(
        self, key: ObjectKey, generation: int, is_referenced: Callable[[ObjectKey], bool]
    ) -> Object:
        """Checks that a damaged object may go; it stays in the table until :meth:`forget_damaged`.

        Raises:
            NotFoundError: there is none.
            InUseError: somebody holds it or may stand on it: references name a key and no generation.
        """
        with self.lock:
            found = self._damaged.get((key, generation))
            if found is None:
                raise NotFoundError(f"no damaged object {key.id}.{generation}")
            if found.holds or is_referenced(key):
                raise InUseError(f"{key.id} is in use")
            return found

    def forget_damaged(self, gone: Object) -> None:
        """Damaged to absent: its folder is another's to have."""
        with self.lock:
            del self._damaged[gone.key, gone.facts.generation]

    # links

    def linked(self, owner: int, request_digest: str) -> Link | None:
        """To which of a user's objects a request was resolved."""
        with self.lock:
            key = self._linked.get((owner, request_digest))
            return None if key is None else Link(key, self._stored[key].links[request_digest])

    def link(self, request_digest: str, key: ObjectKey, expires: float | None) -> list[Object]:
        """Links a request to an object, and to no other any more; returns the objects that changed.

        Raises:
            NotFoundError: the object is not stored.
        """
        with self.lock:
            found = self._present(key)
            former = self._unlink(key.owner, request_digest)
            found.links[request_digest] = expires
            self._linked[key.owner, request_digest] = key
            while len(found.links) > _MOST_LINKS:
                self._unlink(key.owner, next(iter(found.links)))
            return [found] if former is None or former is found else [found, former]

    def _unlink(self, owner: int, request_digest: str) -> Object | None:
        former = self._linked.pop((owner, request_digest), None)
        if former is None:
            return None
        del self._stored[former].links[request_digest]
        return self._stored[former]

    def _index_links(self, each: Object) -> None:
        for digest in list(each.links):
            if (each.key.owner, digest) in self._linked:
                del each.links[digest]  # it has moved on to another object
            else:
                self._linked[each.key.owner, digest] = each.key
