"""A compiled shim, the scenario's inputs, and how it goes when nothing dies."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: CLONE_NEWNS and CLONE_FS of unshare(2); Python has it from 3.12 on.
_NEW_MOUNTS, _OWN_FOLDER = 0x00020000, 0x00000200
HERE = Path(__file__).resolve().parent
# Servers, raylets and packages of the neighbours' tests: tests/ has no packages.
sys.path[:0] = [str(HERE.parent / name) for name in (".", "cache", "daemon", "agent/fetch", "agent/python")]

from world import World  # noqa: E402 - found by the line above


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """What all lives share."""
    with World.make() as made:
        yield made


@pytest.fixture(scope="module")
def loop_device() -> Iterator[None]:
    """For tests of a loss of power: only root can mount, and not in every container."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    found = subprocess.run(["losetup", "--find"], check=False, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
    with _mounting_unseen():
        yield


@contextlib.contextmanager
def _mounting_unseen() -> Iterator[None]:
    """Only this thread, and processes and threads that it starts, see what is mounted meanwhile.

    A container or a user's podman that starts at the same time copies what is mounted, and a file system that
    is mounted somewhere is not let go of: mounted again it would be without power still. Afterwards this
    thread must come back: gRPC's own, which were there before, never left, and would not find the sockets of
    a later test on a disk of its own.
    """
    libc, folder = ctypes.CDLL(None, use_errno=True), Path.cwd()
    with Path("/proc/thread-self/ns/mnt").open() as before:
        if libc.unshare(_NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["mount", "--make-rslave", "/"], check=True)
            yield
        finally:
            # Who shares its folder with other threads may not leave; gRPC's that began meanwhile share it.
            if libc.unshare(_OWN_FOLDER) or libc.setns(before.fileno(), _NEW_MOUNTS):
                raise OSError(ctypes.get_errno(), "setns")
            os.chdir(folder)
