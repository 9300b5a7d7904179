"""A value of the GCS, written as it arrives: one gRPC call, without gRPC's library.

That library hands an answer over whole, after copying it three times under Python's lock, most of that on the
event loop: two thirds of the time of a package of half a GiB. Here the frames are read from the socket
(RFC 9113; PROTOCOL-HTTP2.md of gRPC), and nothing is decoded that need not be: whatever is not a plain value,
an error or only something unusual, is an :class:`OddAnswerError`, and :mod:`ray_envd.agent.fetch.gcs` asks
again and says what it is. Clusters with TLS are asked by that alone.
"""

import contextlib
import hashlib
import io
import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ray_envd.agent.fetch.context import GcsEndpoint
from ray_envd.agent.pb.gcs_kv_pb2 import GcsStatus, InternalKVGetReply, InternalKVGetRequest
from ray_envd.cache.owner import Owner, acting_as

_PATH = "/ray.rpc.InternalKVGcsService/InternalKVGet"
_CONNECT, _SILENCE = 10.0, 300.0  # seconds: for a connection, and between two pieces of an answer
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8  # types of frames
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_ENABLE_PUSH, _INITIAL_WINDOW, _MAX_FRAME = 2, 4, 5  # settings
_LARGEST_WINDOW, _LARGEST_FRAME = 2**31 - 1, 2**24 - 1
_PIECE = 1 << 20
_SEVEN_BITS = 0x7F
_MOST_BEFORE_VALUE = 4096
_STATUS_TAG = InternalKVGetReply.STATUS_FIELD_NUMBER << 3 | 2
_VALUE_TAG = InternalKVGetReply.VALUE_FIELD_NUMBER << 3 | 2
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OddAnswerError(Exception):
    """It is no plain value. Whoever needs to know what it is asks by gRPC's library."""


class ValueStream:
    """The value of one key, under way. Its methods block, but for :meth:`close`.

    Attributes:
        size: bytes of the value; known once :meth:`open` has returned.
    """

    def __init__(self, key: str, endpoint: GcsEndpoint) -> None:
        self.size = 0
        self._key, self._endpoint = key, endpoint
        self._socket = socket.socket()
        self._is_closed = False
        self._file: io.BufferedReader[socket.SocketIO] | None = None
        self._in_frame = 0

    def open(self) -> None:
        """Asks for the value, and returns when its first bytes have come.

        Raises:
            OddAnswerError: it does not come like that.
        """
        host, _, port = self._endpoint.address.rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), _CONNECT)
            if self._is_closed:
                self.close()
            self._socket.settimeout(_SILENCE)
            self._socket.sendall(self._question())
            self._file = io.BufferedReader(self._socket.makefile("rb", 0), _PIECE)
        except (OSError, ValueError) as error:
            raise OddAnswerError("not reachable") from error
        self.size = self._until_value()

    def save(self, destination: Path, owner: Owner) -> str:
        """Writes the value to a new file of its owner, mode 0600. Returns its sha256, hex.

        Raises:
            OddAnswerError: it did not come whole; the file is there, in part.
            OSError: the file exists, or cannot be written.
        """
        digest = hashlib.sha256()
        with acting_as(owner), open(os.open(destination, _NEW_FILE, 0o600), "wb", buffering=0) as out:

            def take(piece: memoryview) -> None:
                digest.update(piece)
                while piece:
                    piece = piece[out.write(piece) :]

            with ThreadPoolExecutor(1) as behind:
                last: Future[None] | None = None
                for piece in self._pieces():
                    if last is not None:
                        last.result()
                    last = behind.submit(take, piece)
                if last is not None:
                    last.result()
        return digest.hexdigest()

    def close(self) -> None:
        """Ends it, at any time; whoever waits for it in another thread fails at once. Loop-safe."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # the protocol

    def _question(self) -> bytes:
        request = InternalKVGetRequest(key=self._key.encode()).SerializeToString()
        headers = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", _PATH),
            (":authority", self._endpoint.address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *self._endpoint.metadata,
        )
        settings = struct.pack(
            ">HIHIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW, _LARGEST_WINDOW, _MAX_FRAME, _LARGEST_FRAME
        )
        return b"".join(
            (
                _PREFACE,
                _frame(_SETTINGS, settings),
                _frame(_WINDOW, struct.pack(">I", _LARGEST_WINDOW - 65535)),
                _frame(_HEADERS, b"".join(_literal(*each) for each in headers), _END_HEADERS, stream=1),
                _frame(_DATA, struct.pack(">BI", 0, len(request)) + request, _END_STREAM, stream=1),
            )
        )

    def _until_value(self) -> int:
        """Reads all that stands before the value, with which the message must end; returns its size."""
        compressed, left = struct.unpack(">BI", self._read(5))
        if compressed:
            raise OddAnswerError("compressed")
        while left > 0:
            tag, taken = self._varint()
            size, more = self._varint()
            left -= taken + more
            if tag == _VALUE_TAG and size == left > 0:
                return size
            if tag != _STATUS_TAG or size > _MOST_BEFORE_VALUE:
                break
            if GcsStatus.FromString(self._read(size)).code:
                break
            left -= size
        raise OddAnswerError("no value, or not at its end")

    def _pieces(self) -> Iterator[memoryview]:
        """The value. A piece is good until the one after the next is asked for."""
        buffers = (memoryview(bytearray(_PIECE)), memoryview(bytearray(_PIECE)))
        left, turn = self.size, 0
        while left:
            piece = buffers[turn][: min(left, _PIECE)]
            self._read_into(piece)
            yield piece
            left, turn = left - len(piece), 1 - turn

    def _varint(self) -> tuple[int, int]:
        """A number of protobuf, and how many bytes it took."""
        number = 0
        for taken in range(5):
            (byte,) = self._read(1)
            number |= (byte & _SEVEN_BITS) << 7 * taken
            if byte <= _SEVEN_BITS:
                return number, taken + 1
        raise OddAnswerError("no number")

    def _read(self, size: int) -> bytes:
        buffer = bytearray(size)
        self._read_into(memoryview(buffer))
        return bytes(buffer)

    def _read_into(self, buffer: memoryview) -> None:
        """The next bytes of the message."""
        while buffer:
            if not self._in_frame:
                self._in_frame = self._next_data()
            done = self._received(buffer[: self._in_frame])
            self._in_frame -= done
            buffer = buffer[done:]

    def _next_data(self) -> int:
        """Reads what is between data; returns how many bytes of data come next."""
        while True:
            head = memoryview(bytearray(9))
            self._fill(head)
            size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            if kind == _DATA and not flags & _PADDED:
                if size:
                    return size
            elif kind in {_DATA, _RESET, _GOAWAY} or size > _MOST_BEFORE_VALUE:
                raise OddAnswerError("refused, or not understood")
            else:
                body = memoryview(bytearray(size))
                self._fill(body)
                if kind in {_SETTINGS, _PING} and not flags & _ACK:
                    with contextlib.suppress(OSError):  # reading will tell
                        self._socket.sendall(_frame(kind, bytes(body) if kind == _PING else b"", _ACK))
            if kind in {_DATA, _HEADERS} and flags & _END_STREAM:
                raise OddAnswerError("it has ended")

    def _fill(self, buffer: memoryview) -> None:
        while buffer:
            buffer = buffer[self._received(buffer) :]

    def _received(self, buffer: memoryview) -> int:
        assert self._file is not None  # noqa: S101 - opened
        try:
            done = self._file.readinto1(buffer)
        except (OSError, ValueError) as error:
            raise OddAnswerError("the connection broke") from error
        if not done:
            raise OddAnswerError("the GCS hung up")
        return done


def _frame(kind: int, body: bytes, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def _literal(name: str, value: str) -> bytes:
    """A header as RFC 7541 6.2.2 has it, uncompressed."""
    return b"\0" + b"".join(_string(each.encode()) for each in (name, value))


def _string(data: bytes) -> bytes:
    if len(data) < _SEVEN_BITS:
        return bytes([len(data)]) + data
    length, rest = bytearray([_SEVEN_BITS]), len(data) - _SEVEN_BITS
    while rest > _SEVEN_BITS:
        length.append(rest & _SEVEN_BITS | 0x80)
        rest >>= 7
    return bytes([*length, rest]) + data
