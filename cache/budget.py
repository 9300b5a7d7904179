"""Bytes reserved before they are written: a full disk is an error before the work and not after it."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ray_envd.cache.errors import NeverFitsError, NoRoomError
from ray_envd.cache.text import bytes_text


class Budget:
    """What builds under way may still write. Thread-safe.

    Against the limit counts what is stored and what is reserved; against the disk, what is reserved and what
    must stay free. A reservation counts in full until it is given back, also while its bytes already show on
    the disk: the budget errs to the safe side.
    """

    def __init__(self, limit_bytes: int | None, disk_free: Callable[[], int], min_free_bytes: int) -> None:
        """``limit_bytes`` None: the disk alone is the limit. ``disk_free`` says what is free on it now."""
        self._limit, self._disk_free, self._min_free = limit_bytes, disk_free, min_free_bytes
        self._lock = threading.Lock()
        self._reserved = 0

    @property
    def reserved(self) -> int:
        """Bytes of all reservations."""
        return self._reserved

    def reserve(self, size: int, stored: int) -> "Reservation":
        """Sets bytes aside; ``stored`` is what the store holds now.

        Raises:
            NeverFitsError: they are more than the whole budget.
            NoRoomError: they do not fit now; they may after a collection.
        """
        reservation = Reservation(self)
        reservation.resize(size, stored)
        return reservation

    def _change(self, old: int, new: int, stored: int) -> None:
        if new < 0:
            raise ValueError(f"not a number of bytes: {new}")
        free = self._disk_free()  # outside of the lock: it asks the file system
        with self._lock:
            if new > old:
                self._check(new, self._reserved - old + new, stored, free)
            self._reserved += new - old

    def _check(self, size: int, reserved: int, stored: int, free: int) -> None:
        limit = self._limit
        if limit is not None and size > limit:
            raise NeverFitsError(f"{bytes_text(size)} are needed, the whole budget is {bytes_text(limit)}")
        if limit is not None and stored + reserved > limit:
            raise NoRoomError(
                f"{bytes_text(size)} are needed; of the budget of {bytes_text(limit)},"
                f" {bytes_text(stored)} are stored and {bytes_text(reserved - size)} reserved by other builds"
            )
        if reserved + self._min_free > free:
            raise NoRoomError(
                f"{bytes_text(size)} are needed; the disk has {bytes_text(free)} free, of which"
                f" {bytes_text(self._min_free)} must stay so and {bytes_text(reserved - size)} are reserved"
                " by other builds"
            )

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._reserved -= size


class Reservation:
    """Bytes set aside for one build; given back at the end of its ``with`` block."""

    def __init__(self, budget: Budget) -> None:
        """Use :meth:`Budget.reserve`."""
        self._budget = budget
        self._size = 0
        self._released = False

    @property
    def size(self) -> int:
        """The bytes set aside; 0 once released."""
        return self._size

    def resize(self, size: int, stored: int) -> None:
        """Sets the number of bytes anew, as the build turns out larger or smaller. Less always works.

        Raises:
            NeverFitsError, NoRoomError: as for :meth:`Budget.reserve`; the reservation is as before.
        """
        if self._released:
            raise ValueError("the reservation was given back")
        self._budget._change(self._size, size, stored)  # noqa: SLF001 - one module, one secret
        self._size = size

    def release(self) -> None:
        """Gives the bytes back; once."""
        size, self._size, self._released = self._size, 0, True
        self._budget._give_back(size)  # noqa: SLF001 - one module, one secret

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
