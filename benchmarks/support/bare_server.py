"""The limit of an agent in Python: accepts, reads a little, answers the same bytes, and closes. Nothing else.

``bare_server.py asyncio|uvloop``; the answer comes on stdin, the port goes to stdout. Never ends.
"""

import asyncio
import sys
from typing import cast

ANSWER = sys.stdin.buffer.read()


class Accept(asyncio.Protocol):
    """Whatever comes first is the request, whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, _data: bytes) -> None:
        """See asyncio.Protocol."""
        self._transport.write(ANSWER)
        self._transport.close()


async def serve() -> None:
    """Until it is ended."""
    server = await asyncio.get_running_loop().create_server(Accept, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    else:
        asyncio.run(serve())
