import threading

import pytest

from ray_envd.cache.budget import Budget
from ray_envd.cache.errors import NeverFitsError, NoRoomError


def _plenty() -> int:
    return 1 << 60


@pytest.mark.parametrize(
    ("steps", "size", "stored", "error"),
    [
        ([], 100, 0, None),
        ([], 101, 0, NeverFitsError),
        ([], 50, 50, None),
        ([], 51, 50, NoRoomError),
        ([60], 40, 0, None),
        ([60], 41, 0, NoRoomError),
        ([30, 30], 30, 10, None),
        ([30, 30], 31, 10, NoRoomError),
        ([100], 0, 0, None),
    ],
)
def test_the_limit_holds_for_stored_and_reserved_together(
    steps: list[int], size: int, stored: int, error: type[Exception] | None
) -> None:
    """What can never fit is another error than what does not fit now."""
    budget = Budget(100, _plenty, 0)
    for step in steps:
        budget.reserve(step, 0)
    if error is None:
        budget.reserve(size, stored)
    else:
        with pytest.raises(NoRoomError) as refused:
            budget.reserve(size, stored)
        assert type(refused.value) is error
        assert budget.reserved == sum(steps)


def test_the_disk_keeps_its_minimum_free() -> None:
    """Also without a limit, and asked anew each time."""
    free = [1000]
    budget = Budget(None, lambda: free[0], 200)
    first = budget.reserve(500, 10**9)
    with pytest.raises(NoRoomError, match="200 B must stay so and 500 B are reserved"):
        budget.reserve(301, 0)
    budget.reserve(300, 0)
    first.release()
    free[0] = 400
    with pytest.raises(NoRoomError):
        budget.reserve(1, 0)


def test_a_reservation_is_given_back_once_also_after_an_error() -> None:
    """Leaving the block releases, and releasing again changes nothing."""
    budget = Budget(100, _plenty, 0)
    reservation = budget.reserve(80, 0)
    with pytest.raises(RuntimeError), reservation:
        raise RuntimeError
    reservation.release()
    assert (budget.reserved, reservation.size) == (0, 0)
    with pytest.raises(ValueError, match="given back"):
        reservation.resize(1, 0)


def test_a_reservation_can_be_corrected() -> None:
    """It grows as far as there is room, shrinks always, and stays as it was when it cannot grow."""
    budget = Budget(100, _plenty, 0)
    one, other = budget.reserve(40, 0), budget.reserve(40, 0)
    one.resize(60, 0)
    with pytest.raises(NoRoomError):
        one.resize(61, 0)
    with pytest.raises(NeverFitsError):
        one.resize(101, 0)
    assert (one.size, other.size, budget.reserved) == (60, 40, 100)
    one.resize(10, 10**9)
    assert budget.reserved == 50
    with pytest.raises(ValueError, match="not a number"):
        one.resize(-1, 0)


def test_what_is_written_already_is_not_asked_of_the_disk_again() -> None:
    """The disk has less free by it; against the limit a reservation counts in full."""
    free = [1000]
    budget = Budget(1000, lambda: free[0], 0)
    one = budget.reserve(600, 0)
    free[0] -= 500
    one.wrote(500)
    other = budget.reserve(400, 0)
    with pytest.raises(NoRoomError, match="600 B reserved") as refused:
        other.resize(401, 0)
    assert (refused.value.missing, refused.value.of_disk) == (1, False)
    one.wrote(300)  # some of it was deleted, and somebody else has the space
    with pytest.raises(NoRoomError, match="700 B are reserved") as refused:
        budget.reserve(1, -100)
    assert refused.value.of_disk
    one.release()
    one.wrote(100)
    other.release()
    assert budget.reserve(500, 0).size == 500


def test_threads_never_reserve_more_than_there_is() -> None:
    """Of many at once, exactly as many get their bytes as fit."""
    budget, won = Budget(100, _plenty, 0), []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait(10)
        for _ in range(50):
            try:
                won.append(budget.reserve(7, 0))
            except NoRoomError:
                return

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(won), budget.reserved) == (14, 98)
