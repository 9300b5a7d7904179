"""The daemon's process: signals, the store's lock, the event loop, exit codes.

A signal only sets an event; the second one forces.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial

import uvloop

from ray_envd.agent import notify, process, process_tree
from ray_envd.agent.config import Settings
from ray_envd.agent.daemon import Daemon
from ray_envd.agent.machine import raise_file_limit
from ray_envd.agent.warm_file import Wanted
from ray_envd.cache.errors import StoreLockedError
from ray_envd.cache.store import Store

_log = logging.getLogger(__name__)
_SWITCH_SECONDS = 0.0005  # Python's own is 0.005
EXIT_OK, EXIT_LOCKED = 0, 5


@contextlib.asynccontextmanager
async def _signals(daemon: Daemon) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()

    def received(name: str) -> None:
        if daemon.stopping.is_set():
            _log.warning("%s again: no more waiting", name)
            daemon.forced.set()
        _log.info("%s: draining", name)
        daemon.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(received, number.name))
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _run(settings: Settings, wanted: Wanted) -> int:
    if os.geteuid() == 0:
        # acting_as() changes a thread's uid and gid; groups of root's must not come along.
        os.setgroups([])
    try:
        store = await asyncio.to_thread(Store.open, settings.store)
    except StoreLockedError as error:
        _log.error("%s", error)
        return EXIT_LOCKED
    process_tree.become_reaper()
    orphans = await asyncio.to_thread(process.adopt, settings.store)
    if orphans:
        _log.warning("%d processes of an earlier daemon's builds were killed", orphans)
    daemon = Daemon(settings, store)
    async with _signals(daemon):
        try:
            await daemon.start(wanted)
        except BaseException:
            await daemon.stop()
            raise
        # What was made so far stays for good: the collector of cycles need not look at it again.
        gc.freeze()
        gc.enable()
        notify.ready()
        _log.info("ready: store %s, socket %s", settings.store, settings.socket)
        daemon.begin_sweep()
        await daemon.stopping.wait()
        await daemon.stop()
    _log.info("stopped")
    return EXIT_OK


def serve(settings: Settings) -> int:
    """Runs the daemon until it is told to stop; returns its exit code.

    Called with the collection of cycles disabled; it is enabled once the daemon is ready.

    Raises:
        OSError: it cannot listen, or the store's folder cannot be used.
        ConfigError: the warm file is wrong, or the TCP token cannot be read.
    """
    wanted = Wanted.at(settings.warm_file)
    raise_file_limit()
    # A thread that computes (a collection, a digest) lets the event loop run after that, not after 5 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, wanted))
