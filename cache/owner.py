"""Who owns a tree, and acting on the file system as that user.

A daemon that runs as root serves the raylets of every user. It never touches a user's tree with
root's rights: a user could put a symbolic link in the way. Inside :func:`acting_as` the file-system
identity of the *calling thread* is the owner's (setfsuid(2), made for file servers), so the kernel
checks every path as it would for that user, and what is created belongs to him.
"""

import ctypes
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_libc = ctypes.CDLL(None, use_errno=True)
_UNCHANGED = ctypes.c_uint32(0xFFFFFFFF)  # an id that never exists: the call then only reports


@dataclass(frozen=True, slots=True)
class Owner:
    """The user to whom an object, a session or a build belongs.

    ``home`` and ``name`` are what the password database says; a uid without an entry (usual in
    containers) has ``/`` and its number.
    """

    uid: int
    gid: int
    home: str = "/"
    name: str = ""

    @classmethod
    def of(cls, uid: int, gid: int) -> "Owner":
        """The owner with these ids; the password database fills in the rest if it knows him."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid, gid, "/", str(uid))
        return cls(uid, gid, entry.pw_dir, entry.pw_name)

    @classmethod
    def current(cls) -> "Owner":
        """The user this process runs as."""
        return cls.of(os.geteuid(), os.getegid())

    @property
    def is_current(self) -> bool:
        """Whether no change of identity is needed to act as this owner."""
        return self.uid == os.geteuid() and self.gid == os.getegid()

    def groups(self) -> list[int]:
        """Every group of this user, for the processes that run as him."""
        if not self.name or self.name.isdigit():
            return [self.gid]
        return os.getgrouplist(self.name, self.gid)


def _set_fs_ids(uid: int, gid: int) -> None:
    """Sets the calling thread's file-system ids, and checks that the kernel did so.

    setfsuid(2) reports the *previous* id whether it worked or not, so the result is read back.
    """
    _libc.setfsgid(ctypes.c_uint32(gid))
    _libc.setfsuid(ctypes.c_uint32(uid))
    if _libc.setfsuid(_UNCHANGED) != uid or _libc.setfsgid(_UNCHANGED) != gid:
        raise PermissionError(
            f"cannot act as uid {uid}, gid {gid}: the daemon lacks CAP_SETUID or CAP_SETGID"
        )


@contextmanager
def acting_as(owner: Owner) -> Iterator[None]:
    """Gives the calling thread the owner's file-system identity for the block.

    Never hold it across an ``await``: the identity is the thread's, not the task's.

    Raises:
        PermissionError: this process may not take on that identity.
    """
    if owner.is_current:
        yield
        return
    uid, gid = os.geteuid(), os.getegid()
    try:
        # The order matters: once the uid is not root's any more, the gid cannot be changed.
        _set_fs_ids(owner.uid, owner.gid)
        yield
    finally:
        _libc.setfsuid(ctypes.c_uint32(uid))
        _set_fs_ids(uid, gid)
