"""What a daemon finds in its store when it starts, put in order.

Markers decide. Names are compared, contents of objects are never walked, and of the markers only those are
read that the catalog has no copy of, so a start takes well under a second with ten thousand objects. What is
to go is renamed into the trash; deleting it may take long and comes later (:meth:`Leftovers.sweep`).

What cannot be trusted but may be in use, since raylets outlive daemons, is kept as damaged: nobody is given
it. After a loss of power, when nobody can use anything, what was not on disk for certain is removed instead.
"""

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_envd.cache.catalog import Catalog, mapping, object_name
from ray_envd.cache.epochs import Epochs
from ray_envd.cache.errors import CorruptError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.layout import Layout, UserDirs, folder_name
from ray_envd.cache.markers import MarkerName, Markers
from ray_envd.cache.owner import Owner, acting_as
from ray_envd.cache.records import Facts, Object
from ray_envd.cache.removal import remove_tree, to_trash
from ray_envd.cache.sizes import Size

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
    """What a store holds, all of it committed; what is damaged apart."""

    objects: dict[ObjectKey, Object]
    damaged: list[Object]
    leftovers: Leftovers


#: An object's folder: its key and generation.
_Place = tuple[ObjectKey, int]


def recover(layout: Layout, markers: Markers, catalog: Catalog, epochs: Epochs) -> Recovered:
    """Brings markers, folders and catalog into agreement; see the module's text."""
    recovery = _Recovery(layout, markers, epochs, catalog.rows)
    catalog.rows = {}
    recovered = recovery.run()
    _write_back(catalog, recovery.rows, recovered.objects)
    epochs.begin(recovery.newest, nothing=not (recovered.objects or recovered.damaged))
    return recovered


class _Recovery:
    """One recovery: markers first, then folders, then what both say."""

    def __init__(self, layout: Layout, markers: Markers, epochs: Epochs, rows: dict[str, Any]) -> None:
        self._layout, self._markers, self._epochs = layout, markers, epochs
        self.rows = rows
        self.newest = 0
        self._leftovers = Leftovers(own=layout.unknown_buckets())

    def run(self) -> Recovered:
        objects, damaged = self._read_markers()
        there: set[_Place] = set()
        unknown: set[int] = set()
        wanted: dict[int, dict[str, _Place]] = defaultdict(dict)
        for each in (*objects.values(), *damaged):
            wanted[each.key.owner][_folder(each)] = _place(each)
        for uid, gid in self._layout.owners():
            try:
                there |= self._recover_user(Owner(uid, gid), wanted[uid])
            except OSError as error:
                # One user's folders must not keep the daemon from serving the others.
                _log.warning("the objects of uid %d are left alone: %s", uid, error)
                unknown.add(uid)
        return Recovered(
            {
                key: each
                for key, each in objects.items()
                if self._is_there(each, there, unknown) and key.owner not in unknown
            },
            [
                each
                for each in damaged
                if self._is_there(each, there, unknown) and each.key.owner not in unknown
            ],
            self._leftovers,
        )

    def _is_there(self, each: Object, there: set[_Place], unknown: set[int]) -> bool:
        if _place(each) in there or each.key.owner in unknown:
            return True
        _log.warning("%s of uid %d has vanished, its marker is dropped", each.key.id, each.key.owner)
        self._markers.remove(_marker(each))
        return False

    # markers

    def _read_markers(self) -> tuple[dict[ObjectKey, Object], list[Object]]:
        """What the markers say is there, and what they say is damaged."""
        objects, damaged = dict[ObjectKey, Object](), list[Object]()
        for name, fingerprint in self._markers.all().items():
            if name.damaged is not None:
                damaged.append(self._damaged(name, fingerprint))
                continue
            found = self._object(name.key, fingerprint)
            if found.facts.damaged:
                damaged.append(found)
            elif self._epochs.trusts(found.facts.epoch):
                objects[name.key] = found
            else:
                _log.warning(
                    "%s of uid %d may not be whole since power was lost", found.key.id, found.key.owner
                )
                self._markers.remove(name)
        for each in damaged:
            twin = objects.get(each.key)
            if twin is not None and twin.facts.generation == each.facts.generation:
                # The daemon was killed while it condemned the object.
                self._markers.remove(MarkerName(each.key))
                del objects[each.key]
        self.newest = max((each.facts.epoch for each in objects.values()), default=0)
        return objects, damaged

    def _object(self, key: ObjectKey, fingerprint: list[int]) -> Object:
        """The object from its row, if the row is a copy of this very marker, else from the marker.

        Use and links are taken from the row in both cases. If the marker is damaged, so is the object.
        """
        name = MarkerName(key)
        row = mapping(self.rows.get(object_name(key)))
        try:
            known = row.get("marker") == fingerprint
            facts = Facts.from_json(row["facts"]) if known else self._markers.read(name)
        except (CorruptError, KeyError, OSError) as error:
            facts = _unreadable(error)
            _log.warning("%s of uid %d is taken out of service: %s", key.id, key.owner, error)
            self._markers.write(key, facts)
            self._markers.remove(name)
        return _made(self._layout, key, facts, fingerprint, row)

    def _damaged(self, name: MarkerName, fingerprint: list[int]) -> Object:
        try:
            facts = self._markers.read(name)
        except (CorruptError, OSError) as error:
            facts = _unreadable(error)
        # The name of the marker decides, whatever is in it.
        facts = replace(facts, generation=name.damaged or 0, damaged=facts.damaged or "no reason is known")
        return _made(self._layout, name.key, facts, fingerprint, {})

    # folders

    def _recover_user(self, owner: Owner, wanted: Mapping[str, _Place]) -> set[_Place]:
        """Moves what is unfinished into the trash; returns the user's folders that have a marker.

        ``wanted`` are these, by kind and name.
        """
        dirs = self._layout.user(owner.uid)
        there: set[_Place] = set()
        with acting_as(owner):
            self._leftovers.trash += [(owner, path) for path in _children(dirs.trash)]
            unfinished = [*_children(dirs.staging), *dirs.unknown_buckets()]
            for kind in _children(dirs.objects):
                for name, is_folder in _folders(kind):
                    place = wanted.get(f"{kind.name}/{name}")
                    if is_folder and place is not None:
                        there.add(place)
                    else:
                        unfinished.append(kind / name)
            if not self._epochs.trusts_caches:
                _log.warning(
                    "uv's cache of uid %d may not be whole since power was lost, it is removed", owner.uid
                )
                unfinished += _children(dirs.uv_cache)
            for path in unfinished:
                _to_trash(path, owner, dirs, self._leftovers)
        return there


def _place(each: Object) -> _Place:
    return each.key, each.facts.generation


def _folder(each: Object) -> str:
    """Kind and name of an object's folder."""
    return f"{each.key.kind}/{folder_name(each.key.digest, each.facts.generation)}"


def _marker(each: Object) -> MarkerName:
    return MarkerName(each.key, each.facts.generation if each.facts.damaged else None)


def _unreadable(error: Exception) -> Facts:
    """What is said of an object whose marker says nothing."""
    return Facts("?", Size(0), time.time(), 0.0, {}, damaged=f"its marker cannot be read: {error}")


def _made(
    layout: Layout, key: ObjectKey, facts: Facts, fingerprint: list[int], row: Mapping[str, Any]
) -> Object:
    last_used, uses, heat, since, links = map(row.get, ("last_used", "uses", "heat", "since", "links"))
    return Object(
        key,
        layout.object(key, facts.generation),
        facts,
        fingerprint,
        # A clock that was ahead must not make an object look used in the future, and so never old enough.
        last_used=min(last_used, time.time()) if isinstance(last_used, int | float) else facts.created,
        uses=uses if isinstance(uses, int) else 0,
        heat=float(heat) if isinstance(heat, int | float) else 1.0,
        since=float(since) if isinstance(since, int | float) else None,
        links={
            name: when
            for name, when in mapping(links).items()
            if when is None or isinstance(when, int | float)
        },
    )


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


def _to_trash(path: Path, owner: Owner, dirs: UserDirs, leftovers: Leftovers) -> None:
    try:
        doomed = to_trash(path, dirs.trash)
    except OSError as error:
        _log.warning("an unfinished object cannot be removed: %s", error)
        return
    if doomed is not None:
        leftovers.trash.append((owner, doomed))


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
