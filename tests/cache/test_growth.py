"""How uv's caches are accounted for while builds write into them."""

from hypothesis import given
from hypothesis import strategies as st

from ray_envd.cache.growth import Growth


def test_one_build_after_the_other() -> None:
    """While it runs its reservation covers what it writes; then that counts in full until it is measured."""
    growth = Growth()
    growth.measured(50, growth.mark())
    growth.begin()
    growth.measured(150, growth.mark())
    assert (growth.stored, growth.pending, growth.last) == (50, 100, 150)
    growth.end(120)
    assert (growth.stored, growth.pending, growth.is_settled) == (170, 0, False)
    growth.measured(150, growth.mark())
    assert (growth.stored, growth.pending, growth.is_settled) == (150, 0, True)


def test_what_has_ended_is_settled_while_others_run() -> None:
    """A measurement tells what the first had written; the second is covered by its own reservation."""
    growth = Growth()
    growth.begin()
    growth.begin()
    growth.end(120)
    growth.measured(130, growth.mark())
    assert (growth.stored, growth.pending) == (120, 10)


def test_a_measurement_during_which_a_build_ended_does_not_settle_it() -> None:
    """It may have looked before the build wrote."""
    growth = Growth()
    growth.begin()
    mark = growth.mark()
    growth.end(100)
    growth.measured(0, mark)
    assert growth.stored == 100
    growth.measured(90, growth.mark())
    assert growth.stored == 90


def test_what_was_pruned_counts_no_more() -> None:
    """Also while a build runs."""
    growth = Growth()
    growth.measured(500, growth.mark())
    growth.begin()
    growth.measured(200, growth.mark())
    assert (growth.stored, growth.pending) == (200, 0)


_STEP = st.tuples(
    st.sampled_from(["begin", "write", "end", "measure"]), st.integers(0, 5), st.integers(0, 100)
)


@given(st.lists(_STEP, max_size=60))
def test_no_byte_is_ever_missed(steps: list[tuple[str, int, int]]) -> None:
    """What counts as stored and what is reserved is never less than what there is; at rest it is exact."""
    growth, running = Growth(), list[list[int]]()  # of each build what it reserved and wrote
    real = 0
    for what, which, size in steps:
        build = running[which % len(running)] if running else None
        if what == "begin":
            growth.begin()
            running.append([size, 0])
        elif what == "write" and build is not None:
            added = min(size, build[0] - build[1])  # no more than it has reserved: else it would have grown
            build[1] += added
            real += added
        elif what == "end" and build is not None:
            running.remove(build)
            growth.end(build[0])
        elif what == "measure":
            growth.measured(real, growth.mark())
        assert growth.stored + sum(each[0] for each in running) >= real
    for build in running:
        growth.end(build[0])
    growth.measured(real, growth.mark())
    assert (growth.stored, growth.pending) == (real, 0)
