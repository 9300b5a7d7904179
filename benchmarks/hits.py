"""What a hit costs: a raylet asks for a runtime env that is ready, on a new connection each time.

``make bench ONLY=hits`` runs it. Four servers answer the same request in turn: the daemon behind the link,
stock Ray's agent, and two that only accept and reply, in Python too, which is the limit of both. The same hit
over gRPC comes from Python clients. What is measured from where to where stands in README.md. The exit code
is 1 if a hit was built, an answer failed or something was left behind.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tools")]

# Found by the line above:
import grpc
from agents import Agent, create_request
from bare_grpc import METHOD, SERVICE
from figures import Figures, Series, Target
from load import load
from processes import NodeError
from script import circumstances, console, installations, parser, run, temporary
from sides import Sides, pip_env

from ray_envd.agent.client import Client, Created
from ray_envd.agent.pb import runtime_env_pb2 as pb
from ray_envd.agent.pb import runtime_env_pb2_grpc as services

CLIENTS = (1, 10)
SIDES = {
    "": "ray-envd",
    "_stock": "stock",
    "_asyncio": "accept and reply, asyncio",
    "_uvloop": "accept and reply, uvloop",
}


def _series() -> dict[str, Series]:
    found = {}
    for clients in CLIENTS:
        word = "client" if clients == 1 else "clients"
        for name, what in (("p50", "half of the answers"), ("p99", "99 % of the answers")):
            for side, who in SIDES.items():
                found[f"{name}_{clients}{side}"] = Series(f"{clients} {word}, {what} within: {who}")
        for side, who in SIDES.items():
            found[f"rate_{clients}{side}"] = Series(f"{clients} {word}: {who}", "1/s")
        found[f"own_{clients}"] = Series(f"{clients} {word}: what a request costs the clients themselves")
    found["grpc"] = Series("gRPC on the Unix socket, GetOrCreateRuntimeEnv, half within")
    found["grpc_empty"] = Series("gRPC on a Unix socket, a method that returns its request, half within")
    found["grpc_p99"] = Series("gRPC on the Unix socket, GetOrCreateRuntimeEnv, 99 % within")
    found["client"] = Series("ray-envd's own client, create() in a session that is there, half within")
    return found


SERIES = _series()
RATIOS = {
    **{
        f"hit_rate_{n}": (f"hits per second, {n} at once: ray-envd to stock", f"rate_{n}", f"rate_{n}_stock")
        for n in CLIENTS
    },
    **{
        f"hit_p99_{n}": (f"99th percentile, {n} at once: stock to ray-envd", f"p99_{n}_stock", f"p99_{n}")
        for n in CLIENTS
    },
    "hit_grpc": ("half of the hits: stock over HTTP to ray-envd over gRPC", "p50_1_stock", "grpc"),
    **{
        f"limit_{n}": (
            f"hits per second, {n} at once: accept and reply (uvloop) to stock",
            f"rate_{n}_uvloop",
            f"rate_{n}_stock",
        )
        for n in CLIENTS
    },
}
_LIMIT = (
    "one client waits for each answer: its own work, two wake-ups and the kernel's part of a connection are"
    " most of the time, and a server that only accepts and replies (limit_1) does not reach it either"
)
TARGETS = {
    "hit_rate_1": Target(least=5, of="stock", limit=_LIMIT),
    "hit_rate_10": Target(least=5, of="stock"),
    "hit_p99_1": Target(least=5, of="stock", limit=_LIMIT),
    "hit_p99_10": Target(
        least=5,
        of="stock",
        limit="with two cores for daemon and clients, a server that only accepts and replies has 4.5 to 6"
        " from run to run (p99_10_uvloop), and what a hit does in Python comes on top",
    ),
    "hit_grpc": Target(
        least=1,
        of="stock",
        limit="grpcio's own part of a call, in a Python client and a Python server (grpc_empty)",
    ),
}


class Bench:
    """Both nodes and the bare servers, each of which answers the same request."""

    def __init__(self, folder: Path, installs: Path, package: str) -> None:
        self.env = pip_env(package)
        self.sides = Sides(folder, installs)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Both sides, on which the env is ready."""
        with self.sides.running():
            self.agent, self.stock_agent = self.sides.attached(), Agent(self.sides.stock)
            # Stock last: it takes seconds, in which the new environment of ours is sealed.
            for agent in (self.agent, self.stock_agent):
                agent.create(self.env)
            yield

    def http(self, rounds: int, requests: int) -> None:
        """Hits over HTTP, each side in turn."""
        sides = {"": self.agent, "_stock": self.stock_agent}
        targets = {side: (agent.address, agent.request(self.env)) for side, agent in sides.items()}
        with contextlib.ExitStack() as bare, self._hits_only():
            for loop in ("asyncio", "uvloop"):
                answer = self.agent.answer(self.env)
                port = bare.enter_context(_bare(("bare_server.py", loop), answer))
                targets[f"_{loop}"] = ("127.0.0.1", port), self.agent.request(self.env)
            for number in range(rounds):
                console.print(f"[dim]hits over HTTP: round {number + 1} of {rounds}[/]")
                for clients in CLIENTS:
                    for side, (address, request) in targets.items():
                        found = load(address, request, clients=clients, requests=requests)
                        SERIES[f"rate_{clients}{side}"].add(found.rate)
                        SERIES[f"p50_{clients}{side}"].add(found.p50)
                        SERIES[f"p99_{clients}{side}"].add(found.p99)
                        SERIES[f"own_{clients}"].add(found.own / 1000)

    def grpc(self, rounds: int, requests: int) -> None:
        """Hits over gRPC; one caller, one connection, one call after the other."""
        request = pb.GetOrCreateRuntimeEnvRequest.FromString(create_request(self.env))
        bare = self.sides.folder / "bare.sock"
        with (
            grpc.insecure_channel(f"unix:{self.sides.daemon.socket}") as channel,
            Client(self.sides.daemon.socket) as client,
            _bare(("bare_grpc.py", str(bare))),
            grpc.insecure_channel(f"unix:{bare}") as bare_channel,
        ):
            empty: Any = bare_channel.unary_unary(f"/{SERVICE}/{METHOD}")
            body = create_request(self.env)
            stub: Any = services.RuntimeEnvServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            call = stub.GetOrCreateRuntimeEnv

            def by_stub() -> None:
                if call(request, timeout=120).status != pb.AGENT_RPC_STATUS_OK:
                    raise NodeError("an env that is ready was not given over gRPC")

            def by_client() -> None:
                events = client.create(self.env, python=str(self.sides.ours.python))
                if not any(isinstance(event, Created) and event.cache_hit for event in events):
                    raise NodeError("an env that is ready was not a hit for our client")

            by_stub()  # the daemon's own session has it from here on
            with self._hits_only():
                for number in range(rounds):
                    console.print(f"[dim]hits over gRPC: round {number + 1} of {rounds}[/]")
                    SERIES["grpc_empty"].add(statistics.median(_timed(lambda: empty(body), requests)))
                    took = _timed(by_stub, requests)
                    SERIES["grpc"].add(statistics.median(took))
                    SERIES["grpc_p99"].add(statistics.quantiles(took, n=100)[98])
                    SERIES["client"].add(statistics.median(_timed(by_client, requests // 10)))

    @contextlib.contextmanager
    def _hits_only(self) -> Iterator[None]:
        before = self.sides.daemon.stats().builds
        yield
        if built := self.sides.daemon.stats().builds - before:
            raise NodeError(f"{built} objects were built: not every hit was one")


def _timed(call: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each call, after some that do not count."""
    took = []
    for number in range(-20, times):
        began = time.perf_counter()
        call()
        if number >= 0:
            took.append((time.perf_counter() - began) * 1000)
    return took


@contextlib.contextmanager
def _bare(words: Sequence[str], answer: bytes = b"") -> Iterator[int]:
    """What a bare server says first, which is its port if it has one; it is ended afterwards."""
    command = [sys.executable, str(HERE / "support" / words[0]), *words[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            if server.stdin is None or server.stdout is None:
                raise NodeError("no pipes")
            server.stdin.write(answer)
            server.stdin.close()
            yield int(json.loads(server.stdout.readline()))
        finally:
            server.kill()


def measure(arguments: argparse.Namespace) -> Figures:
    """The whole run.

    Raises:
        NodeError: something did not come up, was not what it should be, or was left behind.
    """
    with temporary() as short, installations() as installs:
        bench = Bench(short, installs, arguments.package)
        figures = Figures(SERIES, RATIOS, circumstances(short, package=arguments.package), TARGETS)
        with bench.running():
            bench.http(arguments.rounds, arguments.requests)
            bench.grpc(arguments.rounds, arguments.requests // 4)
    return figures


def main() -> int:
    """The command."""
    asked = parser(__doc__, rounds=5, requests=3000)
    asked.add_argument("--package", default="cowsay==6.1", help="the pinned package of the env")
    return run(asked, measure, "Hits: an env that is ready, asked for again")


if __name__ == "__main__":
    sys.exit(main())
