import subprocess
import sys
from pathlib import Path

import pytest

from ray_envd.cache.errors import StoreLockedError
from ray_envd.cache.store import Store

_HOLDER = """
import sys
from pathlib import Path
from ray_envd.cache.store import Store
store = Store.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused_with_the_first_ones_pid(root: Path) -> None:
    """And the lock is free the moment the first one is dead, however it died."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError, match=f"in use by process {holder.pid}$") as refused:
            Store.open(root)
        assert refused.value.pid == holder.pid
        holder.kill()
        holder.wait(10)
        Store.open(root).close()


def test_an_unreadable_pid_is_no_second_problem(root: Path) -> None:
    """Whatever the file says, the store is refused."""
    store = Store.open(root)
    store.layout.lock.write_text("nonsense")
    with pytest.raises(StoreLockedError, match="process unknown") as refused:
        Store.open(root)
    assert refused.value.pid == 0
    store.close()
    again = Store.open(root)
    again.close()
