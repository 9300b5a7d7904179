"""The store: objects built at their final path, committed by a marker, held while in use, removed by rename.

This module does the work on files; who may do it is decided in memory (objects.py). Every step leaves the
disk in a state from which :mod:`ray_envd.cache.recovery` makes a whole store, whenever the daemon is killed.
"""

import logging
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_envd.cache import stamps
from ray_envd.cache.catalog import Catalog, object_name
from ray_envd.cache.epochs import Epochs, sync_file_system
from ray_envd.cache.errors import CorruptError, InUseError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout, UserDirs
from ray_envd.cache.lock import StoreLock
from ray_envd.cache.markers import MarkerName, Markers
from ray_envd.cache.objects import Objects
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.records import Build, Entry, Facts, Link, Object
from ray_envd.cache.recovery import Recovered, recover
from ray_envd.cache.removal import clear, remove_tree, to_trash
from ray_envd.cache.sizes import Size, Unit, measure, with_others
from ray_envd.cache.stored import Stored

__all__ = ["Build", "Entry", "Link", "Store"]

_log = logging.getLogger(__name__)


class Store(Stored):
    """One daemon's store. Thread-safe; methods not marked loop-safe block and belong in a thread."""

    def __init__(
        self,
        layout: Layout,
        lock: StoreLock,
        markers: Markers,
        catalog: Catalog,
        epochs: Epochs,
        found: Recovered,
    ) -> None:
        """Use :meth:`open`."""
        super().__init__(layout, markers, catalog, epochs, Objects(found.objects, found.damaged))
        self._process_lock, self._leftovers = lock, found.leftovers
        self._building = self._begun = 0
        #: Removes what belongs to an object that leaves and stands outside of the store; whether it is gone.
        #: It blocks, and is not called on the event loop. The key is nobody's until it returns.
        self.remove_outside: Callable[[Entry], bool] = lambda _entry: False
        self._syncing = threading.Lock()
        self._counting = threading.Lock()

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
            epochs = Epochs(layout.epoch)
            return cls(layout, lock, markers, catalog, epochs, recover(layout, markers, catalog, epochs))
        except BaseException:
            lock.release()
            raise

    def sweep(self) -> int:
        """Deletes what :meth:`open` found to be left over; may take long. Returns the bytes freed."""
        return self._leftovers.sweep()

    def flush(self) -> None:
        """Writes when and how often objects were used; every few seconds, and at the end."""
        self._write(self._objects.take_touched())

    @property
    def is_synced(self) -> bool:
        """Whether a loss of power would cost nothing of what was built. Loop-safe."""
        return self._epochs.is_synced

    def sync(self) -> None:
        """Puts everything that was built on disk, for certain; may take seconds, and disturbs nobody.

        Raises:
            OSError: the disk.
        """
        with self._syncing:
            with self._counting:
                epoch, begun = self._epochs.next(), self._begun
                quiet = not self._building
            sync_file_system(self.layout.root)
            with self._counting:
                # Whatever is built meanwhile may have written to uv's cache behind the sync's back.
                self._epochs.ended(epoch, settled=quiet and begun == self._begun)

    def close(self) -> None:
        """Writes what is to be written and lets go of the store."""
        self.flush()
        if not self.is_synced:
            try:
                self.sync()
            except OSError as error:
                _log.warning("what was built last may not survive a loss of power: %s", error)
        self._catalog.close()
        self._process_lock.release()

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
        generation = self._objects.free_generation(key)
        build = Build(key, self.layout.object(key, generation), owner, generation)
        self._objects.announce(build)
        try:
            self._count_begun()
            # Without an entry of ours, whatever stands there is worth nothing.
            self._markers.remove(MarkerName(key))
            dirs = self.layout.create_user(owner)
            with acting_as(owner):
                clear(build.path, dirs.trash)
                build.path.parent.mkdir(mode=0o700, exist_ok=True)
                build.path.mkdir(mode=0o700)
        except BaseException:
            self._give_up(build)
            raise
        return build

    def _count_begun(self) -> None:
        with self._counting:
            self._building += 1
            self._begun += 1
            self._epochs.unsettle()

    def _give_up(self, build: Build) -> None:
        self._objects.give_up(build)
        with self._counting:
            self._building -= 1

    def commit(
        self,
        build: Build,
        *,
        summary: str,
        build_seconds: float,
        details: Mapping[str, Any],
        fetched_bytes: int = 0,
        units: Mapping[str, str] | None = None,
        stamped: Iterable[str] = (),
        present: Iterable[str] = (),
        outside: Iterable[Unit] = (),
    ) -> Entry:
        """Publishes what a build has made; the object comes back held once, for the caller.

        Its files survive any death of the daemon, and a loss of power after the next :meth:`sync`; one that
        comes earlier takes the object with it.

        Args:
            build: what :meth:`begin` returned.
            summary: one line for people, without secrets.
            build_seconds: what it cost.
            details: JSON to keep with the object.
            fetched_bytes: what was downloaded for it.
            units: which of its files come and go together, see :func:`ray_envd.cache.sizes.measure`.
            stamped: the paths that :meth:`check` looks at, relative to the object or absolute.
            present: of these, too, but only whether they are there.
            outside: what belongs to the object and does not stand in the store, see :meth:`note_foreign`.

        Raises:
            InUseError: the build has ended already.
            CorruptError: its folder is gone.
            OSError: the disk; the caller abandons the build.
        """
        if not self._objects.is_building(build):
            raise InUseError(f"{build.key.id} is not under construction by this build")
        epoch = self._epochs.current  # before the last of its files: a sync that ends it has them all
        with acting_as(build.owner):
            _require_folder(build.path)
            measured = measure(build.path, units)
            taken = stamps.take(build.path, stamped, present=present)
        facts = Facts(
            summary,
            with_others(measured.size, outside),
            time.time(),
            build_seconds,
            dict(details),
            fetched_bytes=fetched_bytes,
            generation=build.generation,
            stamps=taken,
            epoch=epoch,
        )
        return self._publish(build, facts, measured.links)

    def _publish(self, build: Build, facts: Facts, links: Mapping[str, int]) -> Entry:
        """Makes it an object: its marker first, which is what counts; then the catalog, and memory."""
        key = build.key
        fingerprint = self._markers.write(key, facts)
        heat, since = self._objects.past(key, facts.created)
        committed = Object(
            key,
            build.path,
            facts,
            fingerprint,
            last_used=facts.created,
            uses=1,
            heat=heat + 1.0,
            since=since,
            holds=1,
        )
        self._write([committed])
        entry = self._objects.publish(committed, links)
        with self._counting:
            self._building -= 1
        return entry

    def abandon(self, build: Build) -> None:
        """Ends a build without an object; its folder is gone afterwards. Once ended, nothing happens.

        Raises:
            OSError: it could not be deleted; the next build or start sees to it.
        """
        if not self._objects.is_building(build):
            return
        try:
            # A commit may have failed after its marker was in place.
            self._markers.remove(MarkerName(build.key))
            dirs = self.layout.create_user(build.owner)
            with acting_as(build.owner):
                doomed = to_trash(build.path, dirs.trash)
        finally:
            self._give_up(build)
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
            self._markers.remove(MarkerName(key))
        except BaseException:
            self._objects.put_back(gone)
            raise
        freed = 0
        try:
            try:
                freed = self._remove_outside(gone)
                doomed = self._clear_the_place(gone, owner)
            finally:
                self._objects.left(gone.key)
            with acting_as(owner):
                return freed if doomed is None else freed + remove_tree(doomed)
        finally:
            # Only now: what is being deleted still takes its space.
            self._objects.deleted(gone)

    def _remove_outside(self, gone: Object) -> int:
        outside = Size(0, tuple(unit for unit in gone.facts.size.units if not unit.sample))
        if not outside.units:
            return 0
        frees = self.ledger().exclusive(outside)
        return frees if self.remove_outside(gone.entry) else 0

    def _clear_the_place(self, gone: Object, owner: Owner) -> Path | None:
        self._catalog.drop([object_name(gone.key)])
        self.manifests.remove(gone.key, gone.facts.generation)
        with acting_as(owner):
            return to_trash(gone.path, self.layout.user(owner.uid).trash)


def _require_folder(path: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone") from error
    if not is_folder:
        raise CorruptError(f"{path} is no folder any more")
