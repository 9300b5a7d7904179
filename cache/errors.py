"""The store's error set. The faces turn these into gRPC codes and HTTP states, in one place each."""


class StoreError(Exception):
    """Base of everything the store raises on purpose."""


class StoreLockedError(StoreError):
    """Another daemon serves this store.

    Attributes:
        pid: the other daemon's process id; 0 if it could not be read.
    """

    def __init__(self, root: str, pid: int) -> None:
        """The message names the store and the process that holds it."""
        super().__init__(f"the store {root} is in use by process {pid or 'unknown'}")
        self.pid = pid


class NotFoundError(StoreError):
    """No such object, session or request."""


class AmbiguousError(StoreError):
    """A shortened id stands for more than one object."""


class InUseError(StoreError):
    """The object is referenced, held, pinned or being built."""


class NotReferencedError(StoreError):
    """A release without a matching acquire."""


class NoRoomError(StoreError):
    """The bytes do not fit now; they may after a collection.

    Attributes:
        missing: how many bytes more would have to be free.
        of_disk: it is the disk that has too few, and not the budget.
    """

    def __init__(self, message: str, missing: int = 0, *, of_disk: bool = False) -> None:
        """The message says who holds how much."""
        super().__init__(message)
        self.missing, self.of_disk = missing, of_disk


class NeverFitsError(NoRoomError):
    """The bytes are more than the whole budget or the disk."""


class CorruptError(StoreError):
    """Something on disk is not what its marker says."""


class UnsafeArchiveError(StoreError):
    """An archive would write outside its folder, exceeds its limits or is damaged."""
