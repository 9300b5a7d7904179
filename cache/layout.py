"""The store's tree on disk.

::

    STORE/                         0711 if the daemon is root (users must pass through), else 0700
      daemon.lock                  locked by the daemon, its pid inside
      epoch.json                   what is on disk for certain (epochs.py)
      catalog-v1/                  usage, links and a copy of the markers (catalog.py), 0700
      catalog-damaged/             the last catalog that could not be read, for whoever wants to know why
      markers-v1/<uid>/<kind>/<digest>.json
                                   what is committed (markers.py), 0700: never inside a tree a user can write
      markers-v1/<uid>/<kind>/<digest>.<generation>.damaged.json
                                   what was committed and is not to be handed out any more
      manifests-v1/<uid>/<kind>/<digest>.<generation>.json.z
                                   what each file of a sealed object was (manifest.py), 0700
      claims-v1/<uid>/<name>.json  what stands outside of the store by our doing (claims.py), 0700
      sessions-v1/<session>/       what each session references (references.py), 0700
      warm-pins.json               what is pinned for the warm file (pins.py), 0600
      users/                       0711 if the daemon is root, else 0700
        <uid>/                     0700, that user's; touched only inside acting_as(owner)
          objects-v1/<kind>/<digest>/   objects, built at their final path
          objects-v1/<kind>/<digest>.<generation>/   and beside a damaged one that workers still stand on
          staging/                 unfinished files; emptied at start
          trash/                   what is being deleted; emptied at start
          logs/                    logs of tools
          interpreters-v1/         what was found out of the user's interpreters
          uv-cache/                uv's own cache, on the objects' file system so that files can be linked

Buckets carry versions. A new layout takes a new number and needs no migration: buckets of other versions are
removed at start and never read. Within a version files only gain keys that an older daemon passes over; what
it does not know beside them (generations, damaged markers) it removes as unfinished.
"""

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ray_envd.cache.errors import StoreError
from ray_envd.cache.keys import ObjectKey
from ray_envd.cache.owner import Owner, acting_as

_BUCKETS = frozenset({"catalog-v1", "claims-v1", "manifests-v1", "markers-v1", "sessions-v1"})
_ANY_BUCKET = re.compile(r"(catalog|claims|manifests|markers|sessions)-v\d+")
_OBJECTS = "objects-v1"
_INTERPRETERS = "interpreters-v1"
#: In the order of UserDirs.
_USER_FOLDERS = (_OBJECTS, "staging", "trash", "logs", _INTERPRETERS, "uv-cache")
_USER_BUCKETS = frozenset({_OBJECTS, _INTERPRETERS})
_ANY_USER_BUCKET = re.compile(r"(objects|interpreters)-v\d+")


@dataclass(frozen=True, slots=True)
class UserDirs:
    """One user's folders. Everything in them belongs to him and may be anything at any time.

    Attributes:
        root: ``users/<uid>``.
        objects: finished objects and those under construction.
        staging: unfinished files; the daemon empties it when it starts.
        trash: what is being deleted.
        logs: logs of tools.
        interpreters: what is known of his interpreters.
        uv_cache: uv's cache.
    """

    root: Path
    objects: Path
    staging: Path
    trash: Path
    logs: Path
    interpreters: Path
    uv_cache: Path

    @classmethod
    def under(cls, root: Path) -> "UserDirs":
        """The folders below ``users/<uid>``; none need exist."""
        return cls(root, *(root / name for name in _USER_FOLDERS))

    def unknown_buckets(self) -> list[Path]:
        """His buckets of other layouts; call as the owner."""
        return [
            self.root / name
            for name in os.listdir(self.root)  # noqa: PTH208 - names are enough
            if _ANY_USER_BUCKET.fullmatch(name) and name not in _USER_BUCKETS
        ]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a store."""

    root: Path

    @property
    def lock(self) -> Path:
        """The file that says which daemon serves the store."""
        return self.root / "daemon.lock"

    @property
    def epoch(self) -> Path:
        """The file that says what is on disk for certain."""
        return self.root / "epoch.json"

    @property
    def catalog(self) -> Path:
        """The folder of the catalog's database."""
        return self.root / "catalog-v1"

    @property
    def damaged_catalog(self) -> Path:
        """Where a catalog goes that cannot be read."""
        return self.root / "catalog-damaged"

    @property
    def claims(self) -> Path:
        """The folder of the claims."""
        return self.root / "claims-v1"

    @property
    def manifests(self) -> Path:
        """The folder of the manifests."""
        return self.root / "manifests-v1"

    @property
    def markers(self) -> Path:
        """The folder of the commit markers."""
        return self.root / "markers-v1"

    @property
    def sessions(self) -> Path:
        """The folder of the sessions' references."""
        return self.root / "sessions-v1"

    @property
    def warm_pins(self) -> Path:
        """The file that says what is pinned for the warm file."""
        return self.root / "warm-pins.json"

    @property
    def users(self) -> Path:
        """The folder of the users' folders."""
        return self.root / "users"

    def user(self, uid: int) -> UserDirs:
        """A user's folders, whether or not they are there."""
        return UserDirs.under(self.users / str(uid))

    def object(self, key: ObjectKey, generation: int = 0) -> Path:
        """Where an object is or will be."""
        # In one go: a start asks for ten thousand of them.
        place = f"users/{key.owner}/{_OBJECTS}/{key.kind}/{folder_name(key.digest, generation)}"
        return self.root / place

    def create(self) -> None:
        """Makes the daemon's own folders, with the modes that they must have.

        Raises:
            StoreError: the store belongs to somebody else.
            OSError: the disk.
        """
        passable = 0o711 if os.geteuid() == 0 else 0o700
        self.root.mkdir(parents=True, exist_ok=True)
        found = self.root.stat()
        if found.st_uid != os.geteuid():
            raise StoreError(
                f"the store {self.root} belongs to uid {found.st_uid}, not to this daemon's user"
            )
        self.root.chmod(passable)
        own = (self.claims, self.manifests, self.markers, self.sessions)
        for folder, mode in (*((folder, 0o700) for folder in own), (self.users, passable)):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)

    def create_user(self, owner: Owner) -> UserDirs:
        """Makes a user's folders as far as they are missing.

        Only ``users/<uid>`` itself is made with the daemon's rights: it stands in a folder that the user
        cannot write, so nothing of his can be in its place. All below is made as that user.
        """
        dirs = self.user(owner.uid)
        with contextlib.suppress(FileExistsError):
            dirs.root.mkdir(mode=0o700)
        found = dirs.root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {owner.uid, os.geteuid()}:
            raise StoreError(f"{dirs.root} is not a folder of uid {owner.uid}")
        if found.st_uid != owner.uid:
            # New, or the daemon died between the two calls.
            os.chown(dirs.root, owner.uid, owner.gid, follow_symlinks=False)
        with acting_as(owner):
            for name in _USER_FOLDERS:
                (dirs.root / name).mkdir(mode=0o700, exist_ok=True)
        return dirs

    def owner(self, uid: int) -> Owner:
        """Who to act as in a user's folders: the uid, and the group that his folder has.

        The password database is not asked; it may be far away. The daemon's own user has the daemon's group,
        whatever group his folder got from a set-gid folder above: only root may take on another.
        """
        if uid == os.geteuid():
            return Owner(uid, os.getegid())
        try:
            return Owner(uid, (self.users / str(uid)).lstat().st_gid)
        except FileNotFoundError:
            return Owner(uid, os.getegid())

    def owners(self) -> list[tuple[int, int]]:
        """Uid and gid of everybody who has a folder here."""
        with os.scandir(self.users) as entries:
            uids = [
                int(entry.name)
                for entry in entries
                if entry.name.isdecimal()
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == int(entry.name)
            ]
        return [(owner.uid, owner.gid) for owner in map(self.owner, sorted(uids))]

    def unknown_buckets(self) -> list[Path]:
        """The daemon's buckets of other layouts."""
        return [
            self.root / name
            for name in os.listdir(self.root)  # noqa: PTH208 - names are enough
            if _ANY_BUCKET.fullmatch(name) and name not in _BUCKETS
        ]


def folder_name(digest: str, generation: int) -> str:
    """What an object's folder is called: its digest, and its generation where that is not the first."""
    return f"{digest}.{generation}" if generation else digest
