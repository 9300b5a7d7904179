"""Bytes reserved before they are written: a full disk is an error before the work and not after it."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ray_envd.cache.errors import NeverFitsError, NoRoomError
from ray_envd.cache.text import bytes_text


class Budget:
    """What builds under way may still write. Thread-safe.

    Against the limit counts what is stored and what is reserved, in full until it is given back: the bytes of
    an unfinished build are not stored yet. Against the disk counts what is reserved and not written yet, and
    what must stay free.
    """

    def __init__(self, limit_bytes: int | None, disk_free: Callable[[], int], min_free_bytes: int) -> None:
        """``limit_bytes`` None: the disk alone is the limit. ``disk_free`` says what is free on it now."""
        self._limit, self._disk_free, self.min_free = limit_bytes, disk_free, min_free_bytes
        self._lock = threading.Lock()
        self._reserved = self._written = 0

    @property
    def limit(self) -> int | None:
        """The bytes that may be stored and reserved together; None: as many as the disk has."""
        return self._limit

    @property
    def reserved(self) -> int:
        """Bytes of all reservations."""
        return self._reserved

    def disk_free(self) -> int:
        """What is free on the disk; blocking."""
        return self._disk_free()

    def reserve(self, size: int, stored: int) -> "Reservation":
        """Sets bytes aside; ``stored`` is what the store holds now.

        Raises:
            NeverFitsError: they are more than the whole budget.
            NoRoomError: they do not fit now; they may after a collection.
        """
        reservation = Reservation(self)
        reservation.resize(size, stored)
        return reservation

    def _resize(self, reservation: "Reservation", new: int, stored: int) -> None:
        if new < 0:
            raise ValueError(f"not a number of bytes: {new}")
        free = self._disk_free()  # outside of the lock: it asks the file system
        with self._lock:
            if reservation.released:
                raise ValueError("the reservation was given back")
            old, written = reservation.size, reservation.written
            if new > old:
                self._check(new, self._reserved - old + new, stored)
                others = self._reserved - old - (self._written - min(old, written))
                self._check_disk(new, max(0, new - written), others, free)
            self._reserved += new - old
            self._written += min(new, written) - min(old, written)
            reservation.size = new

    def _check(self, size: int, reserved: int, stored: int) -> None:
        limit = self._limit
        if limit is None:
            return
        if size > limit:
            raise NeverFitsError(
                f"{bytes_text(size)} are needed, the whole budget is {bytes_text(limit)}", size - limit
            )
        if stored + reserved > limit:
            raise NoRoomError(
                f"{bytes_text(size)} are needed; of the budget of {bytes_text(limit)},"
                f" {bytes_text(stored)} are stored and {bytes_text(reserved - size)} reserved"
                " by other builds",
                stored + reserved - limit,
            )

    def _check_disk(self, size: int, ahead: int, others: int, free: int) -> None:
        missing = ahead + others + self.min_free - free
        if missing > 0:
            raise NoRoomError(
                f"{bytes_text(size)} are needed; the disk has {bytes_text(free)} free, of which"
                f" {bytes_text(self.min_free)} must stay so and {bytes_text(others)} are reserved"
                " by other builds",
                missing,
                of_disk=True,
            )

    def _wrote(self, reservation: "Reservation", written: int) -> None:
        with self._lock:
            if not reservation.released:
                size = reservation.size
                self._written += min(size, written) - min(size, reservation.written)
                reservation.written = written

    def _give_back(self, reservation: "Reservation") -> None:
        with self._lock:
            self._reserved -= reservation.size
            self._written -= min(reservation.size, reservation.written)
            reservation.size = reservation.written = 0
            reservation.released = True


class Reservation:
    """Bytes set aside for one build; given back at the end of its ``with`` block. Thread-safe.

    Attributes:
        size: the bytes set aside; 0 once released.
        written: what the build has on disk already, be it more than was set aside.
        released: whether they were given back.
    """

    def __init__(self, budget: Budget) -> None:
        """Use :meth:`Budget.reserve`."""
        self._budget = budget
        self.size = self.written = 0
        self.released = False

    def resize(self, size: int, stored: int) -> None:
        """Sets the number of bytes anew, as the build turns out larger or smaller. Less always works.

        Raises:
            NeverFitsError, NoRoomError: as for :meth:`Budget.reserve`; the reservation is as before.
        """
        self._budget._resize(self, size, stored)  # noqa: SLF001 - one module, one secret

    def wrote(self, written: int) -> None:
        """Says how many bytes show on the disk already: those are not asked of it again."""
        self._budget._wrote(self, written)  # noqa: SLF001 - one module, one secret

    def release(self) -> None:
        """Gives the bytes back; again does nothing."""
        self._budget._give_back(self)  # noqa: SLF001 - one module, one secret

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
