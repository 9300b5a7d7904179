"""What the waiters of a build hear."""

from ray_envd.agent.progress import Event, Progress


def test_who_comes_late_hears_all() -> None:
    """First what has been, with a running count once, then what comes, until he stops."""
    progress, heard = Progress(), list[Event]()
    for done in (1, 2, 3):
        progress.report("pip", "downloading", "x", done=done, total=3)
    stop = progress.listen(heard.append)
    progress.report("pip", "installing")
    stop()
    progress.report("pip", "done")
    assert [(event.phase, event.done) for event in heard] == [("downloading", 3), ("installing", 0)]


def test_of_those_who_are_alike_one_is_told() -> None:
    """Each line once, also after the first of them has gone; nothing once all have."""
    progress, heard = Progress(), list[str]()
    stops = [
        progress.listen_once(lambda event, name=name: heard.append(f"{name} {event.phase}"), key)
        for name, key in (("a1", "a"), ("b1", "b"), ("a2", "a"))
    ]
    progress.report("pip", "one")
    stops[0]()
    progress.report("pip", "two")
    stops[2]()
    progress.report("pip", "three")
    assert heard == ["a1 one", "b1 one", "a1 two", "b1 two", "b1 three"]
    assert [progress.tell_once(key) for key in ("a", "a", "b")] == [True, False, True]
