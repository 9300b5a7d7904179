"""The limit of a daemon that speaks gRPC in Python: one method that returns its request.

``bare_grpc.py PATH`` listens on a Unix socket and says so on stdout. Never ends.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

SERVICE, METHOD = "bare.Bare", "Echo"


async def echo(request: bytes, _context: object) -> bytes:
    """The method."""
    return request


async def serve() -> None:
    """Until it is ended."""
    server = grpc.aio.server()
    methods: dict[str, Any] = {METHOD: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    await server.start()
    print("1", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
