"""Who gets room where small builds would overtake a large one for ever."""

import pytest

from ray_envd.agent.overtaking import FAIR, Overtaking


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_was_overtaken_goes_first_for_as_long_as_he_has_waited(clock: Clock) -> None:
    """Then others do again; each time for twice as long, so that it is enough some day."""
    overtaking = Overtaking(clock)
    with overtaking.waiting() as large:
        barred, until = [], clock.now + 16 * FAIR
        while clock.now < until:
            overtaking.missed(large, others_build=True)
            assert not overtaking.is_barred(large)
            barred.append(overtaking.is_barred(None))
            clock.now += FAIR
    assert barred == [False, True, *[False] * 2, *[True] * 4, *[False] * 8]


def test_one_goes_first_at_a_time_and_no_longer_than_he_waits(clock: Clock) -> None:
    """The next one comes when that one has left."""
    overtaking = Overtaking(clock)
    with overtaking.waiting() as other:
        with overtaking.waiting() as large:
            clock.now += FAIR
            overtaking.missed(large, others_build=True)
            overtaking.missed(other, others_build=True)
            assert overtaking.is_barred(other)
        assert not overtaking.is_barred(None)
        overtaking.missed(other, others_build=True)
        assert overtaking.is_barred(None)


def test_nobody_is_held_up_where_that_gives_no_room(clock: Clock) -> None:
    """Once all builds are over, and it still is not enough, others need not stand back."""
    overtaking = Overtaking(clock)
    with overtaking.waiting() as large:
        clock.now += FAIR
        overtaking.missed(large, others_build=False)
        assert not overtaking.is_barred(None)
        overtaking.missed(large, others_build=True)
        assert overtaking.is_barred(None)
        overtaking.missed(large, others_build=False)
        assert not overtaking.is_barred(None)
        overtaking.missed(large, others_build=True)
        assert not overtaking.is_barred(None)
