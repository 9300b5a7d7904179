"""Deleting trees: renamed into the trash at once, deleted at leisure outside every lock.

Call as the tree's owner. The walk goes by descriptors and never by path, so nobody can lead it out of the
tree by putting a link in place of a folder; folders without write permission are made writable first, and no
depth of nesting exhausts stack or descriptors.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

_BLOCK = 512
_DEEPEST = 64  # descriptors held at once; what lies deeper is moved up first
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def to_trash(path: Path, trash: Path) -> Path | None:
    """Renames something into the trash folder and returns its place there; None if there is nothing.

    Where the rename is not possible (the user put something else in place of his trash), it is deleted where
    it stands.

    Raises:
        OSError: neither was possible.
    """
    doomed = trash / secrets.token_hex(8)
    try:
        trash.mkdir(mode=0o700, exist_ok=True)
        path.rename(doomed)
    except OSError:
        if not os.path.lexists(path):
            return None
        remove_tree(path)
        return None
    return doomed


def clear(path: Path, trash: Path) -> int:
    """Moves something into the trash and deletes it there; returns the bytes that this freed."""
    doomed = to_trash(path, trash)
    return 0 if doomed is None else remove_tree(doomed)


def remove_tree(path: Path) -> int:
    """Deletes a file, a link or a folder with all in it; returns the bytes that this freed.

    Nothing there frees nothing. What somebody else deletes meanwhile is no error.

    Raises:
        OSError: something could not be deleted; the rest was.
    """
    try:
        state = path.lstat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(state.st_mode):
        path.unlink(missing_ok=True)
        return _freed(state)
    parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _Removal().run(parent, path.name)
    finally:
        os.close(parent)


def _freed(state: os.stat_result) -> int:
    return state.st_blocks * _BLOCK if state.st_nlink == 1 else 0


def remove_strays(root: Path, paths: Iterable[str]) -> None:
    """Removes single files and empty folders of a tree that may be read-only, and leaves it so.

    What cannot be removed stays: the caller finds it again.

    Args:
        root: the tree.
        paths: relative to it; what is in a folder before the folder.
    """
    for path in paths:
        place = root / path
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(place.parent.lstat().st_mode)
            place.parent.chmod(mode | stat.S_IWUSR)
            try:
                place.rmdir() if stat.S_ISDIR(place.lstat().st_mode) else place.unlink()
            finally:
                place.parent.chmod(mode)


class _Removal:
    """One removal: counts bytes, remembers the first error and goes on."""

    def __init__(self) -> None:
        self._freed = 0
        self._error: OSError | None = None
        self._root = -1

    def run(self, parent: int, name: str) -> int:
        try:
            self._root = _open_folder(parent, name)
        except FileNotFoundError:
            return 0
        try:
            # More than once only if something deep was moved up; each round must make progress.
            while (left := _names(self._root)) and self._error is None:
                for inner in left:
                    self._remove(self._root, inner, depth=0)
        finally:
            os.close(self._root)
        if self._error is not None:
            raise self._error
        self._drop_folder(parent, name)
        if self._error is not None:
            raise self._error
        return self._freed

    def _remove(self, folder: int, name: str, depth: int) -> None:
        try:
            state = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(state.st_mode):
                os.unlink(name, dir_fd=folder)
                self._freed += _freed(state)
            elif depth >= _DEEPEST:
                os.close(_open_folder(folder, name))  # a folder is only moved if it can be written
                os.rename(name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=self._root)
            else:
                self._remove_folder(folder, name, depth)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._error = self._error or error

    def _remove_folder(self, folder: int, name: str, depth: int) -> None:
        inner = _open_folder(folder, name)
        try:
            for child in _names(inner):
                self._remove(inner, child, depth + 1)
        finally:
            os.close(inner)
        self._drop_folder(folder, name)

    def _drop_folder(self, parent: int, name: str) -> None:
        try:
            state = os.stat(name, dir_fd=parent, follow_symlinks=False)
            os.rmdir(name, dir_fd=parent)
            self._freed += state.st_blocks * _BLOCK
        except FileNotFoundError:
            pass
        except OSError as error:
            self._error = self._error or error


def _names(folder: int) -> list[str]:
    return os.listdir(folder)


def _open_folder(parent: int, name: str) -> int:
    """Opens a folder so that its content can be listed and deleted, whatever its mode was."""
    state = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if state.st_mode & stat.S_IRWXU != stat.S_IRWXU and stat.S_ISDIR(state.st_mode):
        # chmod by name would follow a link put there meanwhile; it is the owner's own right at most.
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
    return os.open(name, _FOLDER, dir_fd=parent)
