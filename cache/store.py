"""The store: objects built at their final path, committed by a marker, held while in use, removed by rename.

This module does the work on files; who may do it is decided in memory (objects.py). Every step leaves the
disk in a state from which :mod:`ray_envd.cache.recovery` makes a whole store, whenever the daemon is killed.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_envd.cache.catalog import Catalog, object_name
from ray_envd.cache.durable import settle
from ray_envd.cache.errors import InUseError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout, UserDirs
from ray_envd.cache.lock import StoreLock
from ray_envd.cache.markers import Markers
from ray_envd.cache.objects import Objects
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.records import Build, Entry, Facts, Link, Object, find
from ray_envd.cache.recovery import Recovered, recover
from ray_envd.cache.removal import clear, remove_tree, to_trash
from ray_envd.cache.sizes import exclusive_bytes, tree_bytes

__all__ = ["Build", "Entry", "Link", "Store", "uv_cache_bytes"]


class Store:
    """One daemon's store. Thread-safe; methods not marked loop-safe block and belong in a thread.

    Attributes:
        layout: where things are.
    """

    def __init__(
        self, layout: Layout, lock: StoreLock, markers: Markers, catalog: Catalog, found: Recovered
    ) -> None:
        """Use :meth:`open`."""
        self.layout = layout
        self._process_lock, self._markers, self._catalog = lock, markers, catalog
        self._leftovers = found.leftovers
        self._objects = Objects(found.objects)
        self._pinning = threading.Lock()
        self._writing = threading.Lock()

    # life

    @classmethod
    def open(cls, root: Path) -> "Store":
        """Opens the store in this folder, or makes one, and puts it in order.

        Raises:
            StoreLockedError: another daemon serves it.
            StoreError: it belongs to another user.
            OSError: the disk.
        """
        layout = Layout(root.absolute())
        layout.create()
        lock = StoreLock(layout.lock)
        try:
            markers = Markers(layout.markers)
            catalog = Catalog.open(layout.catalog, layout.damaged_catalog)
            return cls(layout, lock, markers, catalog, recover(layout, markers, catalog))
        except BaseException:
            lock.release()
            raise

    def sweep(self) -> int:
        """Deletes what :meth:`open` found to be left over; may take long. Returns the bytes freed."""
        return self._leftovers.sweep()

    def flush(self) -> None:
        """Writes when and how often objects were used; every few seconds, and at the end."""
        self._write(self._objects.take_touched())

    def _write(self, changed: Sequence[Object]) -> None:
        # Rows are made and written in one go: no thread may overwrite a row with an older one.
        with self._writing:
            if changed:
                self._catalog.put_many((object_name(each.key), each.row()) for each in changed)

    def close(self) -> None:
        """Writes what is to be written and lets go of the store."""
        self.flush()
        self._catalog.close()
        self._process_lock.release()

    # looking and holding

    def get(self, key: ObjectKey) -> Entry | None:
        """The object, or None if it is not there or is leaving. No use is counted. Loop-safe."""
        return self._objects.get(key)

    def entries(self) -> list[Entry]:
        """Every object. Loop-safe."""
        return self._objects.entries()

    def stored_bytes(self) -> int:
        """The bytes of all objects, and of those that are being deleted. Loop-safe, and quick."""
        return self._objects.bytes

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

    def unhold(self, key: ObjectKey) -> None:
        """Gives one hold back. Loop-safe.

        Raises:
            InUseError: it is not held; somebody counts wrongly.
        """
        self._objects.unhold(key)

    def is_held(self, key: ObjectKey) -> bool:
        """Whether somebody holds the object. Loop-safe."""
        return self._objects.is_held(key)

    def owners(self) -> list[tuple[int, int]]:
        """Uid and gid of everybody who has folders here."""
        return self.layout.owners()

    def user_dir(self, owner: Owner) -> UserDirs:
        """A user's folders, made if they are missing."""
        return self.layout.create_user(owner)

    # building

    def begin(self, key: ObjectKey, owner: Owner) -> Build:
        """An empty folder at the object's final path, the owner's, to be filled inside ``acting_as``.

        Every build ends with :meth:`commit` or :meth:`abandon`.

        Raises:
            InUseError: it is being built, or is there already.
            ValueError: the key is another user's.
            OSError: the disk.
        """
        if owner.uid != key.owner:
            raise ValueError(f"{key.id} of uid {key.owner} is not for uid {owner.uid} to build")
        build = Build(key, self.layout.object(key), owner)
        self._objects.announce(build)
        try:
            # Without an entry of ours, whatever stands there is worth nothing.
            self._markers.remove(key)
            dirs = self.layout.create_user(owner)
            with acting_as(owner):
                clear(build.path, dirs.trash)
                build.path.parent.mkdir(mode=0o700, exist_ok=True)
                build.path.mkdir(mode=0o700)
        except BaseException:
            self._objects.give_up(build)
            raise
        return build

    def commit(
        self, build: Build, *, summary: str, build_seconds: float, details: Mapping[str, Any]
    ) -> Entry:
        """Publishes what a build has made; the object comes back held once, for the caller.

        ``summary`` is one line for people, without secrets; ``details`` is JSON to keep with the object.

        A file that is a whole object by itself is on disk for certain afterwards. The files of a larger tree
        survive any death of the daemon, but a loss of power only once the kernel has written them.

        Raises:
            InUseError: the build has ended already.
            CorruptError: its folder is gone.
            OSError: the disk; the caller abandons the build.
        """
        key = build.key
        if not self._objects.is_building(build):
            raise InUseError(f"{key.id} is not under construction by this build")
        with acting_as(build.owner):
            settle(build.path)
            size = exclusive_bytes(build.path)
        facts = Facts(summary, size, time.time(), build_seconds, dict(details))
        fingerprint = self._markers.write(key, facts)
        committed = Object(key, build.path, facts, fingerprint, last_used=facts.created, uses=1, holds=1)
        self._write([committed])
        return self._objects.publish(committed)

    def abandon(self, build: Build) -> None:
        """Ends a build without an object; its folder is gone afterwards. Once ended, nothing happens.

        Raises:
            OSError: it could not be deleted; the next build or start sees to it.
        """
        if not self._objects.is_building(build):
            return
        try:
            # A commit may have failed after its marker was in place.
            self._markers.remove(build.key)
            dirs = self.layout.create_user(build.owner)
            with acting_as(build.owner):
                doomed = to_trash(build.path, dirs.trash)
        finally:
            self._objects.give_up(build)
        if doomed is not None:
            with acting_as(build.owner):
                remove_tree(doomed)

    # leaving

    def evict(self, key: ObjectKey, is_referenced: Callable[[ObjectKey], bool]) -> int:
        """Removes an object that nobody uses; returns the bytes that this freed.

        ``is_referenced`` is asked under the table's lock and must not call the store. A hold taken before
        prevents the removal; after it, the object is not there any more.

        Raises:
            NotFoundError: it is not there.
            InUseError: it is held, pinned, referenced or being built.
            OSError: it is there as before; or its files could not all be deleted: the next start sees to it.
        """
        owner = self.layout.owner(key.owner)
        gone = self._objects.take_out(key, is_referenced)
        try:
            self._markers.remove(key)
        except BaseException:
            self._objects.put_back(gone)
            raise
        try:
            doomed = self._clear_the_place(gone, owner)
            with acting_as(owner):
                return 0 if doomed is None else remove_tree(doomed)
        finally:
            # Only now: what is being deleted still takes its space.
            self._objects.deleted(gone)

    def _clear_the_place(self, gone: Object, owner: Owner) -> Path | None:
        try:
            self._catalog.drop([object_name(gone.key)])
            with acting_as(owner):
                return to_trash(gone.path, self.layout.user(owner.uid).trash)
        finally:
            self._objects.left(gone.key)

    # pins

    def pin(self, key: ObjectKey) -> None:
        """Keeps an object until it is unpinned; durable.

        Raises:
            NotFoundError: it is not there.
        """
        self._set_pinned(key, value=True)

    def unpin(self, key: ObjectKey) -> None:
        """Lets an object be collected again; else as :meth:`pin`."""
        self._set_pinned(key, value=False)

    def _set_pinned(self, key: ObjectKey, *, value: bool) -> None:
        with self._pinning:
            found = self._objects.keep(key)  # it must not leave while its marker is rewritten
            try:
                facts = found.facts.with_pinned(pinned=value)
                fingerprint = self._markers.write(key, facts)
                with self._objects.lock:
                    found.facts, found.fingerprint = facts, fingerprint
                self._write([found])
            finally:
                self._objects.unhold(key)

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


def uv_cache_bytes(store: Store, owner: Owner) -> int:
    """The bytes of a user's uv cache; walks all of it, so not on every occasion."""
    with acting_as(owner):
        return tree_bytes(store.layout.user(owner.uid).uv_cache)
