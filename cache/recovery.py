"""What a daemon finds in its store when it starts, put in order.

Markers decide. Names are compared, contents of objects are never walked, and of the markers only those are
read that the catalog has no copy of, so a start takes well under a second with ten thousand objects. What is
to go is renamed into the trash; deleting it may take long and comes later (:meth:`Leftovers.sweep`).
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_envd.cache.catalog import Catalog, mapping, object_name
from ray_envd.cache.errors import CorruptError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout, UserDirs
from ray_envd.cache.markers import Markers
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.records import Facts, Object
from ray_envd.cache.removal import remove_tree, to_trash

_log = logging.getLogger(__name__)


@dataclass
class Leftovers:
    """What waits to be deleted: by owner, and the daemon's own."""

    trash: list[tuple[Owner, Path]] = field(default_factory=list)
    own: list[Path] = field(default_factory=list)

    def sweep(self) -> int:
        """Deletes all of it; blocking, maybe for long. Returns the bytes freed.

        What cannot be deleted is logged, and tried again at the next start.
        """
        freed = 0
        while self.trash:
            owner, path = self.trash.pop()
            with acting_as(owner):
                freed += _remove(path)
        while self.own:
            freed += _remove(self.own.pop())
        return freed


@dataclass
class Recovered:
    """What a store holds, all of it committed."""

    objects: dict[ObjectKey, Object]
    leftovers: Leftovers


def recover(layout: Layout, markers: Markers, catalog: Catalog) -> Recovered:
    """Brings markers, folders and catalog into agreement; see the module's text."""
    leftovers = Leftovers(own=layout.unknown_buckets())
    there: dict[ObjectKey, Path] = {}
    unknown: set[int] = set()
    marked = markers.all()
    for uid, gid in layout.owners():
        try:
            there |= _recover_user(Owner(uid, gid), layout.user(uid), marked, leftovers)
        except OSError as error:
            # One user's folders must not keep the daemon from serving the others.
            _log.warning("the objects of uid %d are left alone: %s", uid, error)
            unknown.add(uid)
    for key in marked.keys() - there.keys():
        if key.owner not in unknown:
            _log.warning("%s of uid %d has vanished, its marker is dropped", key.id, key.owner)
            markers.remove(key)
    rows, catalog.rows = catalog.rows, {}
    objects = {}
    for key, path in there.items():
        found = _object(key, path, marked[key], rows.get(object_name(key)), markers)
        if found is None:
            _discard(layout, key, markers, leftovers)
        else:
            objects[key] = found
    _write_back(catalog, rows, objects)
    return Recovered(objects, leftovers)


def _recover_user(
    owner: Owner, dirs: UserDirs, marked: Mapping[ObjectKey, object], leftovers: Leftovers
) -> dict[ObjectKey, Path]:
    """Moves what is unfinished into the trash; returns the user's objects that have marker and folder."""
    there: dict[ObjectKey, Path] = {}
    with acting_as(owner):
        leftovers.trash += [(owner, path) for path in _children(dirs.trash)]
        unfinished = [*_children(dirs.staging), *dirs.unknown_buckets()]
        for kind in _children(dirs.objects):
            for name, is_folder in _folders(kind):
                key = _key(owner.uid, kind.name, name)
                if is_folder and key is not None and key in marked:
                    there[key] = kind / name
                else:
                    unfinished.append(kind / name)
        for path in unfinished:
            _to_trash(path, owner, dirs, leftovers)
    return there


def _folders(folder: Path) -> Iterator[tuple[str, bool]]:
    """The names in a folder of a user's, and whether each is a folder itself, which a link is not."""
    try:
        entries = list(os.scandir(folder))  # a list: the folder changes while it is looked at
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        yield entry.name, entry.is_dir(follow_symlinks=False)


def _children(folder: Path) -> list[Path]:
    """What is in a folder of a user's; anything but a folder there has nothing in it."""
    return [folder / name for name, _ in _folders(folder)]


def _key(uid: int, kind: str, digest: str) -> ObjectKey | None:
    try:
        return ObjectKey(uid, kind, digest)
    except ValueError:
        return None


def _to_trash(path: Path, owner: Owner, dirs: UserDirs, leftovers: Leftovers) -> None:
    try:
        doomed = to_trash(path, dirs.trash)
    except OSError as error:
        _log.warning("an unfinished object cannot be removed: %s", error)
        return
    if doomed is not None:
        leftovers.trash.append((owner, doomed))


def _object(key: ObjectKey, path: Path, fingerprint: list[int], row: Any, markers: Markers) -> Object | None:
    """The object from its row, if the row is a copy of this very marker, else from the marker.

    Use and links are taken from the row in both cases. None if the marker is damaged.
    """
    row = mapping(row)
    try:
        facts = Facts.from_json(row["facts"]) if row.get("marker") == fingerprint else markers.read(key)
    except (CorruptError, KeyError, OSError) as error:
        _log.warning("%s of uid %d is removed: %s", key.id, key.owner, error)
        return None
    last_used, uses, links = row.get("last_used"), row.get("uses"), mapping(row.get("links"))
    return Object(
        key,
        path,
        facts,
        fingerprint,
        # A clock that was ahead must not make an object look used in the future, and so never old enough.
        last_used=min(last_used, time.time()) if isinstance(last_used, int | float) else facts.created,
        uses=uses if isinstance(uses, int) else 0,
        links={name: when for name, when in links.items() if when is None or isinstance(when, int | float)},
    )


def _discard(layout: Layout, key: ObjectKey, markers: Markers, leftovers: Leftovers) -> None:
    markers.remove(key)
    dirs = layout.user(key.owner)
    owner = layout.owner(key.owner)
    with acting_as(owner):
        _to_trash(layout.object(key), owner, dirs, leftovers)


def _write_back(catalog: Catalog, rows: Mapping[str, Any], objects: Mapping[ObjectKey, Object]) -> None:
    """Makes the catalog say what was found: no row without an object, none of an old marker."""
    found = {object_name(key): each for key, each in objects.items()}
    changed = [
        (name, each.row())
        for name, each in found.items()
        if mapping(rows.get(name)).get("marker") != each.fingerprint
    ]
    if changed:
        _log.info("%d objects were taken into the catalog from their markers", len(changed))
        catalog.put_many(changed)
    if gone := rows.keys() - found.keys():
        catalog.drop(gone)


def _remove(path: Path) -> int:
    try:
        return remove_tree(path)
    except OSError as error:
        _log.warning("%s cannot be removed now: %s", path, error)
        return 0
