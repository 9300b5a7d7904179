"""What must hold once a daemon serves again, whatever died before."""

from collections.abc import Mapping
from typing import Any

from helpers import wait_until
from life import Life, tries
from processes import marked
from whole import Manifest, damaged, differences, markers, residue

from ray_envd.agent.pb import admin_pb2


def check(life: Life, objects: Mapping[str, Manifest]) -> None:
    """All of it; the life is over then. ``objects``: the content of all that the scenario can make, by id."""
    holds(life, objects)
    goes_on(life)


def holds(life: Life, objects: Mapping[str, Manifest], *, damaged_catalog: bool = False) -> None:
    """What was answered is so, what is referenced is there and whole, and nothing else is."""
    assert damaged_catalog or not (life.store / "catalog-damaged").exists()
    _nothing_is_left_over(life)
    assert differences(life.store, objects) == []
    _what_was_answered_is_so(life)
    _references_are_exact(life)
    _what_is_referenced_works(life)


def _nothing_is_left_over(life: Life) -> None:
    """No unfinished object, no staged file, no trash (deleted soon after the start), no tool that runs on."""
    wait_until(lambda: not residue(life.store), 10, "the sweep", every=0.01)
    assert marked(f"RAY_ENVD_TOOL_OF={life.store}") == []


def _what_was_answered_is_so(life: Life) -> None:
    """The daemon knows what has a marker and nothing else; what was removed is gone, what was pinned is."""
    # What is damaged and not used is collected now and then.
    wait_until(lambda: _listed(life).keys() == _on_disk(life), 5, "what is listed is what is there")
    listed = _listed(life)
    assert not life.model.removed & listed.keys()
    for name, pinned in life.model.pinned.items():
        if name in listed or pinned:  # what was unpinned may have been collected since
            assert listed[name].pinned == pinned


def _listed(life: Life) -> dict[str, Any]:
    return {each.id: each for each in life.listing().objects}


def _on_disk(life: Life) -> set[str]:
    return {*markers(life.store), *damaged(life.store)}


def _references_are_exact(life: Life) -> None:
    """Each count is what was answered, or, where a reply was lost, one of the two that it can be."""
    wait_until(lambda: _attached(life) == len(life.raylets), 10, "the links' return")
    listing = life.listing()
    assert len(listing.sessions) == len(life.raylets)
    assert sum(session.references for session in listing.sessions) == sum(
        raylet.references() for raylet in life.raylets.values()
    )
    for name, raylet in life.raylets.items():
        wanted = [count for (owner, _), count in life.model.counts.items() if owner == name]
        low, high = sum(count.low for count in wanted), sum(count.high for count in wanted)
        assert low <= raylet.references() <= high
    on_disk = {path.name for path in (life.store / "sessions-v1").iterdir()}
    assert on_disk == {session.id for session in listing.sessions}


def _attached(life: Life) -> int:
    return sum(session.connected for session in life.listing().sessions)


def _what_is_referenced_works(life: Life) -> None:
    """A worker that starts now with the context it was given runs as it should."""
    for (name, env), count in life.model.counts.items():
        if count.low > 0:
            use, created = life.uses[env], life.model.contexts[name, env]
            assert life.raylets[name].run(created, use.code) == use.prints


def goes_on(life: Life) -> None:
    """Every env can be had again, those that were there without a build; counts go to zero; all can go."""
    if not life.raylets:
        life.attach("late")
    damage = damaged(life.store)
    builds = life.daemon.stats().builds
    name, raylet = next(iter(life.raylets.items()))
    if not damage:
        for env in sorted(life.model.kept):
            life.acquire(name, env)
        assert life.daemon.stats().builds == builds
    for env, use in life.uses.items():
        life.acquire(name, env)
        assert raylet.run(life.model.contexts[name, env], use.code) == use.prints
    for owner, each in life.raylets.items():
        for env, use in life.uses.items():
            released, count = 0, life.model.count(owner, env)
            while each.delete(use.env):
                released += 1
            assert count.low <= released <= count.high
        assert each.references() == 0
    _all_can_go(life)


def _all_can_go(life: Life) -> None:
    for each in life.listing().objects:
        if each.pinned:
            life.admin("Unpin", admin_pb2.PinRequest(id=each.id))
    for _ in tries("the collection of everything"):  # what the daemon looks at is held for a moment
        life.collect()
        if not life.listing().objects:
            break
    for name in list(life.raylets):
        life.lose(name)
    life.drain()
    assert markers(life.store) == {}
    assert residue(life.store) == []
    assert list((life.store / "sessions-v1").iterdir()) == []
