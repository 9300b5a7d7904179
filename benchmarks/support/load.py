"""Clients that ask for a runtime env that is ready, again and again, each time on a new connection.

Run as a process of its own: ``load.py HOST PORT CLIENTS REQUESTS``, the HTTP request on stdin. So many
requests are under way at any time, until so many are answered in all. Prints JSON: requests per second, and
what each took in seconds, from the connection to the last byte. Standard library only, and one process for
all clients: where the agent has a core and its clients another, it is the agent that is measured.
"""

import json
import select
import socket
import sys
import time

MOST = 65536


class Ask:
    """A request that is under way."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.began = time.monotonic()
        self.connection = socket.create_connection(address)
        self.connection.sendall(request)
        self._answer = b""

    def answered(self) -> bool:
        """Reads what has come; whether that was the end of the answer."""
        part = self.connection.recv(MOST)
        if not part:
            raise OSError("the agent hung up")
        self._answer += part
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return False
        head = head.lower()
        if not head.startswith(b"http/1.1 200"):
            raise OSError(f"refused: {head!r}")
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        return len(body) >= length


def load(address: tuple[str, int], request: bytes, clients: int, requests: int) -> list[float]:
    """Seconds that each request took."""
    took: list[float] = []
    asks: dict[int, Ask] = {}
    poll = select.epoll()

    def start() -> None:
        ask = Ask(address, request)
        asks[ask.connection.fileno()] = ask
        poll.register(ask.connection, select.EPOLLIN)

    for _ in range(clients):
        start()
    while len(took) < requests:
        for descriptor, _ in poll.poll():
            ask = asks[descriptor]
            if ask.answered():
                took.append(time.monotonic() - ask.began)
                del asks[descriptor]
                ask.connection.close()
                start()
    for ask in asks.values():
        ask.connection.close()
    return took


def main() -> None:
    """The command."""
    host, port, clients, requests = sys.argv[1], *map(int, sys.argv[2:])
    request = sys.stdin.buffer.read()
    load((host, port), request, clients, clients * 10)
    began = time.monotonic()
    took = load((host, port), request, clients, requests)
    print(json.dumps({"rate": len(took) / (time.monotonic() - began), "took": took}))


if __name__ == "__main__":
    main()
