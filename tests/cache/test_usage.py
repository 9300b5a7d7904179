import os
from pathlib import Path

from shelf import ME, du, key, put

from ray_envd.cache.sizes import weigh
from ray_envd.cache.store import Store
from ray_envd.cache.usage import other_bytes


def test_objects_and_all_else_make_up_the_store(store: Store, root: Path) -> None:
    """Books, a log, what lies in staging and a build under way: with the objects, all that du finds."""
    for name in range(5):
        put(store, name, size=30_000 * name)
    dirs = store.user_dir(ME)
    (dirs.logs / "uv.log").write_bytes(b"x" * 50_000)
    (dirs.staging / "half").write_bytes(b"x" * 70_000)
    build = store.begin(key("under way"), ME)
    (build.path / "file").write_bytes(b"x" * 90_000)
    assert store.stored_bytes() + weigh(dirs.uv_cache).total + other_bytes(store) == du(root)
    store.abandon(build)
    assert store.stored_bytes() + weigh(dirs.uv_cache).total + other_bytes(store) == du(root)


def test_what_a_build_links_from_uvs_cache_counts_there(store: Store) -> None:
    """Not twice: uv's cache is measured by itself."""
    dirs = store.user_dir(ME)
    (dirs.uv_cache / "wheel").write_bytes(b"x" * 500_000)
    build = store.begin(key("under way"), ME)
    before = other_bytes(store)  # with what the build's beginning wrote into the books
    os.link(dirs.uv_cache / "wheel", build.path / "wheel")
    assert other_bytes(store) - before < 100_000
    store.abandon(build)


def test_a_folder_that_its_user_closed_does_not_matter(store: Store) -> None:
    """It counts as itself; the rest is told."""
    closed = store.user_dir(ME).logs / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    try:
        assert other_bytes(store) > 0
    finally:
        closed.chmod(0o700)
