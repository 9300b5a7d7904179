"""A daemon and its raylets, told what to do until it dies, and a model of what they have been told.

A :class:`Life` starts daemons under the shim (shim.py), so that one ends at a chosen step. An operation that
was under way when it did has no known outcome: what it would have changed may have happened or not. All that
was answered must be so when the next daemon serves.
"""

import http.client
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import grpc
from daemons import Daemon
from helpers import wait_until
from life_model import Model, Use
from processes import NodeError, alive
from raylet import Raylet
from shim import Shim, Step, read_trace

from ray_envd.agent.pb import admin_pb2

T = TypeVar("T")
_BROKEN = (OSError, http.client.HTTPException, grpc.RpcError)


class DiedError(Exception):
    """The daemon has died and another one serves: the scenario ends here."""


def tries(what: str) -> Iterator[None]:
    """Goes round until the caller has it, for ten seconds.

    Raises:
        TimeoutError: it never did.
    """
    end = time.monotonic() + 10
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
    raise TimeoutError(what)


class Life:
    """See the module's text. Close it in the end, whatever happened.

    Attributes:
        code: where other daemons' code is found (as PYTHONPATH); None: this version's.
        waits: whether the clients outlive the daemon, so that a request may be answered by the next one.
    """

    waits = True

    def __init__(
        self,
        folder: Path,
        shim: Shim,
        uses: Mapping[str, Use],
        *,
        store: Path | None = None,
        python: str,
        gcs: str,
        crash_at: int = 0,
        recovery_crash_at: int = 0,
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: for everything, with a short name.
            shim: ends daemons.
            uses: the envs that operations name.
            store: the store's folder if it is not in ``folder``.
            python: of the raylets.
            gcs: address of the clusters' key-value store.
            crash_at: the step before which the daemon dies; 0: never.
            recovery_crash_at: the step of its start before which the one after it dies.
        """
        self.folder, self.uses, self.model = folder, uses, Model()
        self.python, self.gcs = python, gcs
        self._shim, self._crash_at, self._recovery_crash_at = shim, crash_at, recovery_crash_at
        self.store = store or folder / "store"
        quiet = ("--drain-timeout", "10s", "--min-unused-age", "0s")
        self.daemon = Daemon(self.store, folder / "d.sock", folder / "daemon.log", quiet)
        self.raylets: dict[str, Raylet] = {}
        self.crashes: list[Step] = []
        self.code: Path | None = None
        self._pool = ThreadPoolExecutor(1)
        self._boots = 0

    # daemons

    @property
    def roots(self) -> list[Path]:
        """Where steps are counted: the store, and the folders in which packages are unpacked."""
        return [self.store, self.folder / "raylets"]

    def environment(self, trace: Path, at: int) -> dict[str, str]:
        """The variables of the next daemon."""
        return self._shim.environment(self.roots, trace, at=at)

    def start(self) -> None:
        """Starts the first daemon, the one that is to die.

        Raises:
            DiedError: it died before it served.
        """
        if not self._boot(self._crash_at):
            self._recover()
            raise DiedError

    def _boot(self, at: int) -> bool:
        """Starts a daemon; False if it died at its step before it served."""
        self._boots += 1
        trace = self.folder / f"trace.{self._boots}"
        code = {} if self.code is None else {"PYTHONPATH": str(self.code)}
        self.daemon.environment = {**self.environment(trace, at), **code}
        try:
            self.daemon.start()
        except NodeError:
            if self.daemon.process is None or self.daemon.process.poll() != -signal.SIGKILL:
                raise
            self._note_crash()
            return False
        return True

    def steps(self) -> list[Step]:
        """The steps of the present daemon so far."""
        return read_trace(self.folder / f"trace.{self._boots}", self.roots)

    def _note_crash(self) -> None:
        # Threads that came later than the last step have been stopped before theirs.
        at = self._crash_at if self._boots == 1 else self._recovery_crash_at
        self.crashes += [step for step in self.steps() if step.number == at]

    def died(self) -> bool:
        """Whether the daemon that should run does not."""
        return self.daemon.process is not None and self.daemon.process.poll() is not None

    def _recover(self) -> None:
        """Starts a daemon that dies at a step of its own, then one that stays."""
        self.after_death()
        if self._recovery_crash_at:
            if self._boot(self._recovery_crash_at):
                self.daemon.kill()
            self.after_death()
        assert self._boot(0)

    def after_death(self) -> None:
        """What else goes with a daemon that died: nothing."""

    # operations

    def do(self, call: Callable[[], T]) -> tuple[bool, T | None]:
        """Whether a call was answered, and its result. A daemon that dies meanwhile is followed by others.

        A request that the dead one had not accepted waits for the next daemon and is answered by that.
        """
        dead = False
        future = self._pool.submit(call)
        while not future.done():
            if self.died():
                dead = self._succeed()
                if not self.waits:
                    break
            wait({future}, timeout=0.01)
        try:
            answer = True, future.result(timeout=0)
            if dead and not self.waits:
                answer = False, None  # it came just before all that was agreed on became void
        except _BROKEN:
            if not dead:
                wait_until(self.died, 10, "the daemon's end, or else why was this call not answered")
                dead = self._succeed()
            answer = False, None
        self._dead = dead
        return answer

    def _succeed(self) -> bool:
        self._note_crash()
        self._recover()
        return True

    def ended(self) -> None:
        """Ends the scenario if the daemon died in the last operation.

        Raises:
            DiedError: it did.
        """
        if self._dead:
            raise DiedError

    def begin(self) -> None:
        """Two sessions with all envs and one of them, one reference given back, the package pinned."""
        self.start()
        for name in ("a", "b"):
            self.attach(name)
        for env in self.uses:
            self.acquire("a", env)
        self.acquire("b", "one")
        (package,) = self.objects_of("gcs://")
        self.pin(package, value=True)
        self.release("a", "modules")

    def attach(self, name: str) -> None:
        """A raylet says hello."""
        folder = self.folder / "raylets" / f"{name}{self._boots}"  # a raylet of an earlier boot had another
        raylet = Raylet(folder, self.daemon.socket, {}, python=self.python, gcs=self.gcs)
        self.raylets[name] = raylet
        answered, _ = self.do(raylet.start)
        self.ended()
        assert answered

    def acquire(self, name: str, env: str) -> None:
        """A raylet asks for an env."""
        count = self.model.count(name, env)
        self.model.removed.clear()  # it may have to be built again
        answered, created = self.do(lambda: self.raylets[name].create(self.uses[env].env))
        count.high += 1
        if answered:
            assert created is not None
            assert created.ok, created.error
            count.low += 1
            self.model.contexts[name, env] = created
            self.model.kept.add(env)
        self.ended()

    def release(self, name: str, env: str) -> None:
        """A raylet gives a reference back."""
        count = self.model.count(name, env)
        answered, released = self.do(lambda: self.raylets[name].delete(self.uses[env].env))
        count.low -= 1
        if answered:
            assert released
            count.high -= 1
        self.ended()

    def admin(self, method: str, request: Any) -> Any:
        """A call of the AdminService; None if it was not answered, or refused since an object is in use."""

        def call() -> Any:
            with self.daemon.admin() as stub:
                try:
                    return getattr(stub, method)(request, timeout=60)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                        raise
                    return None

        return self.do(call)[1]

    def listing(self) -> Any:
        """Objects and sessions, as ``ray-envd ls`` shows them."""
        found = self.admin("List", admin_pb2.ListRequest())
        self.ended()
        return found

    def objects_of(self, summary: str) -> list[str]:
        """The ids of the objects whose line for people has a word in it."""
        return [each.id for each in self.listing().objects if summary in each.summary]

    def pin(self, object_id: str, *, value: bool) -> None:
        """``ray-envd pin`` or ``unpin``."""
        self.model.pinned.pop(object_id, None)
        if self.admin("Pin" if value else "Unpin", admin_pb2.PinRequest(id=object_id)) is not None:
            self.model.pinned[object_id] = value
        self.ended()

    def remove(self, object_id: str, *envs: str) -> None:
        """``ray-envd rm`` of what these envs stand on; again while the daemon holds it to look at it."""
        self.model.kept -= set(envs)
        for _ in tries(f"the removal of {object_id}"):
            done = self.admin("Remove", admin_pb2.RemoveRequest(id=object_id))
            self.ended()
            if done is not None:
                self.model.removed.add(object_id)
                return

    def collect(self, *envs: str, until: str | None = None) -> set[str]:
        """``ray-envd gc --to 0``, where nothing but these envs may go; returns the ids of what went.

        With ``until`` again and again until this object went: the daemon holds now and then what it looks at.
        """
        self.model.kept -= set(envs)
        gone = set[str]()
        for _ in tries(f"the collection of {until}"):
            done = self.admin("Gc", admin_pb2.GcRequest(target_bytes=0))
            gone |= set() if done is None else {each.object.id for each in done.victims}
            self.model.removed |= gone
            self.ended()
            if until is None or until in gone:
                break
        return gone

    def lose(self, name: str) -> None:
        """A raylet dies; its session ends."""
        raylet = self.raylets.pop(name)
        self.model.counts = {key: count for key, count in self.model.counts.items() if key[0] != name}
        raylet.kill()
        self.do(lambda: wait_until(lambda: not alive(raylet.link_pid), 10, "the link's end"))
        self.ended()
        wanted = len(self.raylets)
        while len(self.listing().sessions) > wanted:
            pass

    def drain(self) -> None:
        """SIGTERM, and the daemon's end."""
        process = self.daemon.process
        assert process is not None
        process.terminate()
        if process.wait(30) == 0:
            return
        assert process.returncode == -signal.SIGKILL
        self._succeed()
        raise DiedError

    def close(self) -> None:
        """Ends everything."""
        for raylet in self.raylets.values():
            raylet.close()
        self.daemon.kill()
        self._pool.shutdown()
