"""What must hold when a soak is over; each check says what it found."""

import base64
import contextlib
import csv
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemons import admin_of, stats_of
from processes import alive, marked, wait_until
from rays import RayNode
from soak_chaos import Strike
from soak_cluster import Cluster
from soak_place import HIGH_BYTES, Place
from soak_watch import Watch, references, workers_of
from soak_world import Draws

from ray_envd.agent.pb import admin_pb2

#: What Ray raises where a worker or its node died.
_DEATHS = {
    "ActorDiedError",
    "ActorUnavailableError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "OwnerDiedError",
    "WorkerCrashedError",
}
_SLACK = 10.0  # seconds for which a worker may go on until it notices that its raylet is dead
_TROUBLE = re.compile(r"Traceback|never retrieved|was never awaited|unexpectedly|\bCRITICAL\b")
_DAMAGE = re.compile(r"is damaged:|is taken out of service|may not be whole")
_STOCK = "this node runs on Ray's stock runtime-env agent"
_GROWTH = 6 * 1024**2  # bytes of memory that a daemon may gain by some tens of envs
_SESSION_SECONDS = 30.0  # from the start of a raylet to the hello of its link
_CALM_SECONDS = 100.0  # for the daemon's look once a minute


@dataclass(frozen=True)
class Check:
    """An invariant, and how it stands."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True)
class Tasks:
    """What came of all tasks and calls of actors."""

    results: Sequence[dict[str, Any]]
    attempts: Sequence[dict[str, Any]]
    strikes: Sequence[Strike]

    @classmethod
    def read(cls, results: Iterable[Path], attempts: Path, strikes: Sequence[Strike]) -> "Tasks":
        """Reads what the drivers and workers wrote; a line that a kill cut off is left out."""
        lines = [record for path in results for record in _lines(path)]
        return cls(lines, _lines(attempts), strikes)

    def outcome(self, result: dict[str, Any]) -> str:
        """``done``, ``refused as expected``, ``raylet killed``, ``failed`` or ``wrong``."""
        error = result.get("error")
        if not error:
            right = not (result["problems"] or result["refused"])
            return "done" if right else "raylet killed" if self._lost_its_raylet(result) else "wrong"
        if result["refused"] and error == "RuntimeEnvSetupError" and result["refused"] in result["message"]:
            return "refused as expected"
        return "raylet killed" if error in _DEATHS and self._lost_its_raylet(result) else "failed"

    def _lost_its_raylet(self, result: dict[str, Any]) -> bool:
        """Whether Ray names a node whose raylet was killed, or it last ran on such a one."""
        killed = {strike.raylet: strike for strike in self.strikes if strike.raylet}
        told = result.get("message", "")
        if any(strike.node and strike.node in told for strike in killed.values()):
            return True
        began = [each for each in self.attempts if each["id"] in {result["id"], result["actor"] or None}]
        if not began:
            return False
        last = max(began, key=lambda each: each["began"])
        strike = killed.get(last["raylet"])
        return strike is not None and last["began"] - _SLACK < strike.at < result["ended"]

    def check(self) -> Check:
        """No task failed but those whose own raylet was killed, and none saw another env than its own."""
        bad = [result for result in self.results if self.outcome(result) in {"failed", "wrong"}]
        shown = [
            f"{each['kind']}: {each.get('error', 'wrong')}: "
            f"{str(each.get('message') or each.get('problems'))[-1500:]}"
            for each in bad[:5]
        ]
        found = "\n".join([f"{len(bad)} of {len(self.results)} failed or saw what is not theirs", *shown])
        return Check(
            "no task failed but those whose raylet was killed", bool(self.results) and not bad, found
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


# with the cluster up


def sessions(cluster: Cluster) -> Check:
    """Each living raylet has a session, and nobody else.

    References above its workers are its own doing. Ray 2.60 does not give back all that it has asked for
    where workers of a job are still to be started when it ends, nor what it installs eagerly for jobs that
    were over before it began; on stock it is the same. They end with the raylet.
    """
    counted, raylets = dict[int, int](), dict[int, int]()

    def settled() -> bool:
        # A raylet that has just come up starts its link a moment later.
        counted.clear()
        raylets.clear()
        counted.update(references(cluster))
        raylets.update({node.pids("raylet")[0]: len(workers_of(node)) for node in cluster.nodes})
        return set(counted) == set(raylets) and all(counted[pid] >= raylets[pid] for pid in raylets)

    try:
        wait_until(settled, _SESSION_SECONDS, "a session of every raylet, and no other", every=0.5)
        ok = True
    except TimeoutError:
        ok = False
    found = [
        f"raylet {pid}: {raylets.get(pid, 'no')} workers, {counted.get(pid, 'no')} references"
        for pid in sorted({*counted, *raylets})
    ]
    return Check("each living raylet has a session, no dead one has", ok, "; ".join(found))


def watched(watch: Watch) -> list[Check]:
    """What held at each look."""
    lost = [problem for problem in watch.problems if " lost " in problem]
    short = [problem for problem in watch.problems if problem not in lost]
    environments = "\n".join([f"{watch.environments} looks", *lost[:3]])
    compared = "\n".join([f"{watch.compared} looks", *short[:3]])
    return [
        Check("no worker ever lost its environment", watch.environments > 0 and not lost, environments),
        Check("no worker was ever without a reference", watch.compared > 0 and not short, compared),
    ]


def growth(place: Place, python: Path, draws: Draws, count: int) -> Check:
    """The same work again and again leaves no descriptor, thread or memory behind in the daemon."""
    envs = [json.dumps(draws.of("pip").runtime_env) for _ in range(4)]
    vars_ = [json.dumps(draws.of("env_vars").runtime_env) for _ in range(count)]
    _create(place, python, [*envs, *vars_])
    before = _figures(place)
    _create(place, python, [*envs, *vars_] * 2)

    def grown() -> bool:
        most = (before[0], before[1] + 1, before[2] + _GROWTH)
        return any(now > limit for now, limit in zip(_figures(place), most, strict=True))

    # What goes on behind, such as the sealing of what was built, has pipes of its own for a while.
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not grown(), 60, every=0.5)
    ok, after = not grown(), _figures(place)
    found = (
        f"descriptors {before[0]} -> {after[0]}, threads {before[1]} -> {after[1]}, "
        f"memory {before[2] >> 20} -> {after[2] >> 20} MiB over {2 * (len(envs) + count)} envs"
    )
    return Check("the daemon leaks nothing", ok, found)


def _create(place: Place, python: Path, envs: Iterable[str]) -> None:
    with admin_of(place.socket) as admin:
        for env in envs:
            request = admin_pb2.CreateRuntimeEnvRequest(serialized_runtime_env=env, python=str(python))
            for event in admin.CreateRuntimeEnv(request, timeout=120):
                if event.HasField("failure"):
                    raise AssertionError(f"{env}: {event.failure.message}")


def _figures(place: Place) -> tuple[int, int, int]:
    """Descriptors but for the catalog's, of which each thread has some; threads; resident bytes."""
    pid = place.daemon_pid()
    folder, count = Path(f"/proc/{pid}/fd"), 0
    for path in folder.iterdir():
        try:
            count += "catalog-v1" not in str(path.readlink())
        except FileNotFoundError:
            continue
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return count, int(status["Threads"]), int(status["VmRSS"].split()[0]) * 1024


# with the cluster gone


def nothing_held(place: Place) -> Check:
    """Sessions and references end with their raylets."""

    def held() -> Any:
        stats = stats_of(place.socket)
        return stats if not (stats.sessions or stats.references or stats.building) else None

    with contextlib.suppress(TimeoutError):
        wait_until(held, 30, every=0.2)
    stats = stats_of(place.socket)
    found = f"{stats.sessions} sessions, {stats.references} references, {stats.building} builds"
    return Check(
        "no session and no reference is left", not (stats.sessions + stats.references + stats.building), found
    )


def sizes(place: Place) -> Check:
    """What the daemon says that it stores is what du says, within 1 %, and below the high watermark."""
    end, found = time.monotonic() + _CALM_SECONDS, ""
    while True:
        stats, real = stats_of(place.socket), _du(place.store)
        said = stats.object_bytes + stats.uv_cache_bytes + stats.other_bytes
        kept = stats.object_bytes + stats.uv_cache_bytes
        ok = abs(said - real) <= real / 100 and kept <= HIGH_BYTES
        found = f"stats {said:,}, du {real:,}; objects and uv's cache {kept:,}, high watermark {HIGH_BYTES:,}"
        if ok or time.monotonic() > end:
            return Check("the store is as large as it says, and not above its high watermark", ok, found)
        time.sleep(2)


def _du(folder: Path) -> int:
    done = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0])


def whole(place: Place) -> Check:
    """Every file of every object against the RECORD of its wheel; what is collected meanwhile is left out."""
    problems, objects, files = [], 0, 0
    for marker in (place.store / "markers-v1").glob("*/*/*.json"):
        owner, kind = marker.parts[-3:-1]
        folder = place.store / "users" / owner / "objects-v1" / kind / marker.name.removesuffix(".json")
        found, count = _object(folder)
        if marker.exists():
            objects, files = objects + 1, files + count
            problems += found
    text = f"{objects} objects, {files} files of wheels compared"
    return Check("every object is whole", not problems and files > 0, "\n".join([text, *problems[:5]]))


def verified(place: Place) -> Check:
    """What `ray-envd verify` says of every file."""
    with admin_of(place.socket) as admin:
        events = list(admin.Verify(admin_pb2.VerifyRequest(), timeout=300))
    bad = [
        f"{each.object.id}: {each.damage or each.error or each.unlike_record[:3]}"
        for each in events
        if each.damage or each.error or each.unlike_record
    ]
    return Check("ray-envd verify finds nothing", not bad, "\n".join([f"{len(events)} objects", *bad[:5]]))


def _object(folder: Path) -> tuple[list[str], int]:
    if not folder.is_dir():
        return [f"{folder} is not there"], 0
    problems, files = [], 0
    for record in folder.glob("venv/lib/python*/site-packages/soak_*.dist-info/RECORD"):
        try:
            found, count = _against(record)
        except FileNotFoundError:
            continue
        problems, files = [*problems, *found], files + count
    return problems, files


def _against(record: Path) -> tuple[list[str], int]:
    site, problems, count = record.parent.parent, [], 0
    for name, digest, _size in csv.reader(record.read_text().splitlines()):
        if not digest:
            continue
        count += 1
        try:
            content = (site / name).read_bytes()
        except OSError as error:
            problems.append(f"{site / name}: {error.strerror}")
            continue
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if digest != f"sha256={found}":
            problems.append(f"{site / name} is not what its wheel has")
    return problems, count


def residue(place: Place) -> Check:
    """Nothing staged, nothing in the trash, nothing without a marker."""
    store = place.store

    def left() -> list[str]:
        found = [path for name in ("staging", "trash") for path in store.glob(f"users/*/{name}/*")]
        for path in store.glob("users/*/objects-v1/*/*"):
            owner, kind = path.parts[-4], path.parts[-2]
            markers = store / "markers-v1" / owner / kind
            if not any((markers / f"{path.name}{end}").exists() for end in (".json", ".damaged.json")):
                found.append(path)
        return sorted(str(path.relative_to(store)) for path in found)

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not left(), 20, every=0.2)
    found = left()
    return Check("no residue in the store", not found, ", ".join(found[:8]) or "none")


def logs(place: Place, nodes: Sequence[RayNode]) -> Check:
    """No traceback in the daemons' log, and no link that gave up on the daemon."""
    lines = place.log.read_text(errors="replace").splitlines()
    found = [line for line in lines if _TROUBLE.search(line)]
    for node in nodes:
        for path in node.folder.glob("session_2*/logs/runtime_env_agent*"):
            found += [line for line in path.read_text(errors="replace").splitlines() if _STOCK in line]
    return Check("no traceback in a log, no link on stock", not found, "\n".join(found[:8]) or "none")


def undamaged(place: Place) -> Check:
    """Nothing was taken for damaged at any time: kills of processes damage nothing."""
    lines = place.log.read_text(errors="replace").splitlines()
    found = [line for line in lines if _DAMAGE.search(line)]
    return Check("nothing was ever found damaged", not found, "\n".join(found[:5]) or "none")


def no_process(place: Place, nodes: Sequence[RayNode], tools: Callable[[], list[int]]) -> Check:
    """No tool, daemon, link or worker is left once all was told to end."""
    left = [*tools(), *marked(str(place.socket)), *(pid for node in nodes for pid in marked(node.mark))]
    left = sorted({pid for pid in left if alive(pid) and pid != os.getpid()})
    return Check("no process is left", not left, ", ".join(map(str, left)) or "none")
