"""What is trusted after a loss of power. Files are really lost in tests/crash."""

from pathlib import Path

import pytest
from shelf import ME, key, kill, put

from ray_envd.cache import epochs
from ray_envd.cache.store import Store


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> "_Boots":
    """Lets the next stores believe in another boot of the machine."""
    return _Boots(monkeypatch)


class _Boots:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self._boot = monkeypatch, 0
        self()

    def __call__(self) -> None:
        self._boot += 1
        boot = f"boot-{self._boot}"
        self._monkeypatch.setattr(epochs, "boot_id", lambda: boot)


def _there(store: Store) -> set[str]:
    return {entry.summary for entry in store.entries()}


def test_a_daemons_death_costs_nothing(reboot: _Boots, root: Path) -> None:
    """What the kernel was given is there as long as the kernel is."""
    assert reboot
    store = Store.open(root)
    put(store, "a")
    kill(store)
    store = Store.open(root)
    assert _there(store) == {"a"}
    store.close()


def test_a_loss_of_power_costs_what_was_not_synced(reboot: _Boots, root: Path) -> None:
    """What was committed since the last sync is not trusted; what is, stays trusted through later boots."""
    store = Store.open(root)
    put(store, "synced")
    store.sync()
    lost = put(store, "not synced")
    kill(store)
    reboot()
    store = Store.open(root)
    store.sweep()
    assert _there(store) == {"synced"}
    assert not lost.path.exists()
    put(store, "of the next boot")
    kill(store)
    reboot()
    store = Store.open(root)
    assert _there(store) == {"synced"}
    store.close()


def test_an_orderly_end_costs_nothing(reboot: _Boots, root: Path) -> None:
    """A machine that is shut down keeps all."""
    store = Store.open(root)
    put(store, "a")
    store.close()
    reboot()
    store = Store.open(root)
    assert _there(store) == {"a"}
    store.close()


def test_a_commit_during_a_sync_waits_for_the_next(
    reboot: _Boots, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may have been written behind the sync's back."""
    store = Store.open(root)
    put(store, "before")
    monkeypatch.setattr("ray_envd.cache.store.sync_file_system", lambda _path: put(store, "meanwhile"))
    store.sync()
    assert not store.is_synced
    kill(store)
    reboot()
    store = Store.open(root)
    assert _there(store) == {"before"}
    store.close()


def test_what_is_sealed_is_synced_again(reboot: _Boots, root: Path) -> None:
    """Files were added since the sync after its commit: they may be lost, and the object goes with them."""
    store = Store.open(root)
    for name in ("lost", "kept"):
        put(store, name)
    store.sync()
    assert store.is_synced
    store.seal(key("kept"), 0, units=None, stamped=())
    assert not store.is_synced
    store.sync()
    assert store.is_synced
    store.seal(key("lost"), 0, units=None, stamped=())
    kill(store)
    reboot()
    again = Store.open(root)
    assert [entry.key for entry in again.entries()] == [key("kept")]
    again.close()


def test_a_failed_sync_ends_no_epoch(reboot: _Boots, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not write is not believed."""
    store = Store.open(root)
    put(store, "a")

    def fail(_path: Path) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ray_envd.cache.store.sync_file_system", fail)
        with pytest.raises(OSError, match="input/output"):
            store.sync()
    assert not store.is_synced
    kill(store)
    reboot()
    store = Store.open(root)
    assert _there(store) == set()
    store.close()


def test_uvs_cache_goes_if_power_was_lost_during_builds(reboot: _Boots, root: Path) -> None:
    """Uv fsyncs nothing: what it wrote since the last quiet sync may be half there."""
    store = Store.open(root)
    cached = store.user_dir(ME).uv_cache / "wheel"
    cached.write_text("x")
    build = store.begin(key("a"), ME)
    store.sync()
    kill(store)
    reboot()
    store = Store.open(root)
    assert not cached.exists()
    cached.write_text("x")
    store.abandon(store.begin(build.key, ME))
    store.sync()
    kill(store)
    reboot()
    store = Store.open(root)
    assert cached.exists()
    store.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot": 1}'])
def test_a_damaged_file_is_as_good_as_no_sync(reboot: _Boots, root: Path, content: bytes) -> None:
    """What cannot be read has promised nothing."""
    assert reboot
    store = Store.open(root)
    put(store, "a")
    store.close()
    store.layout.epoch.write_bytes(content)
    store = Store.open(root)
    assert _there(store) == set()
    store.close()
