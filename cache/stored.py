"""What is in a store: looking at objects, holding them, and changing what is said of them."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ray_envd.cache import stamps
from ray_envd.cache.catalog import Catalog, object_name
from ray_envd.cache.claims import Claims
from ray_envd.cache.epochs import Epochs
from ray_envd.cache.errors import NotFoundError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout
from ray_envd.cache.ledger import Ledger
from ray_envd.cache.manifest import Manifests
from ray_envd.cache.markers import MarkerName, Markers
from ray_envd.cache.objects import Objects
from ray_envd.cache.owner import acting_as
from ray_envd.cache.records import Entry, Facts, Link, Object, find
from ray_envd.cache.removal import remove_tree, to_trash
from ray_envd.cache.sizes import measure, with_others


class Stored:
    """The committed objects of a store. Thread-safe; methods not marked loop-safe block.

    Attributes:
        layout: where things are.
        manifests: what sealed objects were when they were sealed.
        claims: what stands outside of the store by our doing.
    """

    def __init__(
        self, layout: Layout, markers: Markers, catalog: Catalog, epochs: Epochs, objects: Objects
    ) -> None:
        """Use ``Store.open``."""
        self.layout = layout
        self.manifests = Manifests(layout.manifests)
        self.claims = Claims(layout.claims)
        self._markers, self._catalog, self._epochs, self._objects = markers, catalog, epochs, objects
        # Each is held over work on files; none is taken inside the other.
        self._rewriting = threading.Lock()
        self._writing = threading.Lock()

    def _write(self, changed: Sequence[Object]) -> None:
        # Rows are made and written in one go: no thread may overwrite a row with an older one.
        with self._writing:
            if changed:
                self._catalog.put_many((object_name(each.key), each.row()) for each in changed)

    # looking and holding

    def get(self, key: ObjectKey) -> Entry | None:
        """The object, or None if it is not there or is leaving. No use is counted. Loop-safe."""
        return self._objects.get(key)

    def entries(self) -> list[Entry]:
        """Every object. Loop-safe."""
        return self._objects.entries()

    def stored_bytes(self) -> int:
        """The bytes of all objects, and of those that are being deleted. Loop-safe, and quick.

        Files that several objects share count once, those that uv's cache has as well not at all.
        """
        return self._objects.bytes

    def ledger(self) -> Ledger:
        """Who shares what with whom, and so what each removal would free. Loop-safe."""
        return self._objects.ledger()

    def refresh_units(self) -> None:
        """Asks the files whether uv's cache has them too; after it was pruned, and once after the start."""
        by_owner = dict[int, list[tuple[str, Path]]]()
        for name, each, sample in self._objects.samples():
            by_owner.setdefault(each.key.owner, []).append((name, each.path / sample))
        for uid, samples in by_owner.items():
            with acting_as(self.layout.owner(uid)):
                found = [(name, _links(path)) for name, path in samples]
            self._objects.note_links({name: links for name, links in found if links})

    def note_foreign(self, foreign: Mapping[str, bool]) -> None:
        """Takes in which units that stand outside of the store others have as well, by their ids. Loop-safe.

        Until they are named here they are taken for others', so that their bytes neither count nor are freed.
        """
        self._objects.note_foreign(foreign)

    def find(self, id_prefix: str, owner: int | None = None) -> Entry:
        """The one object whose id (``kind/digest``), or digest alone, begins so; of all users, or of one.

        Loop-safe.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: there are several.
        """
        return find(self.entries(), id_prefix, owner)

    def hold(self, key: ObjectKey) -> Entry | None:
        """Keeps an object from being collected until :meth:`unhold`; None if it is not there. Loop-safe.

        Counts as a use. Holds live in memory: they bridge the time until a reference is on disk.
        """
        return self._objects.hold(key)

    def use(self, keys: Sequence[ObjectKey], generations: Sequence[int], then: Callable[[], object]) -> bool:
        """Calls ``then``, which takes a reference, while none of these objects can be collected. Loop-safe.

        Counts as a use of each. False, and nothing is called, unless all are there, in these generations.
        ``then`` works in memory only and must not call the store.
        """
        return self._objects.use(keys, generations, then)

    def keep(self, key: ObjectKey) -> Entry | None:
        """:meth:`hold` for those who look after an object: it does not count as a use. Loop-safe."""
        try:
            return self._objects.keep(key).entry
        except NotFoundError:
            return None

    def rest(self, key: ObjectKey) -> None:
        """Says that the last who refers to an object is going; its age counts from now on. Loop-safe.

        Before the reference is given back: what a job of days has used must not look days old when it ends,
        while its workers are on their way out.
        """
        self._objects.rest(key)

    def unhold(self, key: ObjectKey, generation: int = 0) -> None:
        """Gives one hold back, with the generation that :meth:`hold` returned. Loop-safe.

        Raises:
            InUseError: it is not held; somebody counts wrongly.
        """
        self._objects.unhold(key, generation)

    def is_held(self, key: ObjectKey) -> bool:
        """Whether somebody holds the object. Loop-safe."""
        return self._objects.is_held(key)

    # damage

    def check(self, key: ObjectKey) -> str | None:
        """Why an object must not be handed out, as far as a few calls can tell; None if it may.

        Looks at its marker, its folder and what was stamped at its commit or seal, not at every file.
        """
        entry = self._objects.get(key)
        if entry is None:
            return "it is not there"
        with acting_as(self.layout.owner(key.owner)):
            if not entry.path.is_dir():
                return "its folder is gone"
            return stamps.difference(entry.path, entry.facts.stamps)

    def condemn(self, key: ObjectKey, reason: str, generation: int | None = None) -> Entry:
        """Takes an object that is damaged out of service, for good; durable.

        It is quarantined where it stands, since workers may have it open: nobody is given it any more, it is
        collected once nobody refers to its key, and who asks for the key gets it built anew, elsewhere.

        Args:
            key: the object's.
            reason: for people; holds no secret.
            generation: the one that was found damaged; None: whichever is there.

        Raises:
            NotFoundError: it is not there (any more).
            OSError: the disk; it is there as before, unless the daemon dies.
        """
        with self._rewriting:
            entry = self._objects.get(key)
            if entry is None or generation not in {None, entry.generation}:
                raise NotFoundError(f"no object {key.id}")
            facts = replace(entry.facts, damaged=reason, pinned=False)
            self._markers.write(key, facts)
            try:
                found = self._objects.condemn(key, facts)
            except NotFoundError:
                self._markers.remove(MarkerName(key, facts.generation))
                raise
            # With both markers the damaged one counts.
            self._markers.remove(MarkerName(key))
            self._catalog.drop([object_name(key)])
        return found.entry

    def evict_damaged(
        self, key: ObjectKey, generation: int, is_referenced: Callable[[ObjectKey], bool]
    ) -> int:
        """Removes a damaged object that nobody can stand on any more; returns the bytes that this freed.

        Raises:
            NotFoundError, InUseError, OSError: as for :meth:`evict`.
        """
        owner = self.layout.owner(key.owner)
        with self._rewriting:
            gone = self._objects.take_out_damaged(key, generation, is_referenced)
            with acting_as(owner):
                doomed = to_trash(gone.path, self.layout.user(owner.uid).trash)
            self._markers.remove(MarkerName(key, generation))
            self.manifests.remove(key, generation)
            self._objects.forget_damaged(gone)
        try:
            with acting_as(owner):
                return 0 if doomed is None else remove_tree(doomed)
        finally:
            self._objects.deleted(gone)

    # pins, and what is found out later

    def pin(self, key: ObjectKey) -> None:
        """Keeps an object until it is unpinned; durable.

        Raises:
            NotFoundError: it is not there.
        """
        self._rewrite(key, lambda facts: replace(facts, pinned=True))

    def unpin(self, key: ObjectKey) -> None:
        """Lets an object be collected again; else as :meth:`pin`."""
        self._rewrite(key, lambda facts: replace(facts, pinned=False))

    def seal(
        self,
        key: ObjectKey,
        generation: int,
        *,
        units: Mapping[str, str] | None,
        stamped: Iterable[str],
        linkable: Mapping[str, str] | None = None,
    ) -> Entry:
        """Says that nothing is added to an object any more; weighs and stamps it anew. Durable.

        The caller holds it. ``linkable`` as for :func:`ray_envd.cache.sizes.measure`, what else is given as
        for :meth:`commit`.

        Raises:
            NotFoundError: it is not there, or not in this generation.
            OSError: the disk, or a stamped path is gone.
        """
        entry = self._objects.get(key)
        if entry is None or entry.generation != generation:
            raise NotFoundError(f"no object {key.id}")
        with acting_as(self.layout.owner(key.owner)):
            measured = measure(entry.path, units, linkable)
            taken = stamps.take(entry.path, stamped, before=entry.facts.stamps)

        def sealed(facts: Facts) -> Facts:
            epoch = self._epochs.sealed()  # after the last of its files
            size = with_others(measured.size, (unit for unit in facts.size.units if not unit.sample))
            return replace(facts, size=size, stamps=taken, sealed=True, epoch=epoch)

        return self._rewrite(key, sealed, measured.links)

    def _rewrite(
        self, key: ObjectKey, change: Callable[[Facts], Facts], links: Mapping[str, int] | None = None
    ) -> Entry:
        with self._rewriting:
            found = self._objects.keep(key)  # it must not leave while its marker is rewritten
            generation = found.facts.generation
            try:
                facts = change(found.facts)
                fingerprint = self._markers.write(key, facts)
                self._objects.change(found, facts, fingerprint, links or {})
                self._write([found])
            finally:
                self._objects.unhold(key, generation)
            return found.entry

    # links

    def linked(self, request_digest: str, owner: int | None = None) -> Link | None:
        """To which of a user's objects a request was resolved, expired or not. Loop-safe.

        ``owner`` is the user's uid; without it, the daemon's own. Users never see one another's links.
        """
        return self._objects.linked(os.geteuid() if owner is None else owner, request_digest)

    def link(self, request_digest: str, key: ObjectKey, expires: float | None) -> None:
        """Remembers to which object a request was resolved, until it expires (unix seconds; None: never).

        The link goes with its object, and with the catalog if that is lost.

        Raises:
            NotFoundError: the object is not there.
        """
        self._write(self._objects.link(request_digest, key, expires))


def _links(path: Path) -> int:
    """How many links a file has; 0 if it is gone."""
    try:
        return path.lstat().st_nlink
    except OSError:
        return 0
