"""The guest's end of the channel: one JSON object a packet on a SOCK_SEQPACKET socket.

Both ends keep packets at or below 65,536 bytes; a larger request travels in a file (`body_fd`).
"""

from __future__ import annotations

import array
import json
import os
import socket
import stat

from atoll.guest.refusal import Refused, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_PACKET = 65536
_MAX_DESCRIPTORS = 64
_MAX_BODY = 256 << 20
_BACKLOG = 4096
# Linux only; elsewhere an exec closes what a child was not given, and SIGPIPE is the end as well.
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

encode = json.JSONEncoder(separators=(",", ":")).encode


class Channel:
    """Receives requests with their descriptors; sends replies and events without ever blocking."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._buffer = bytearray(MAX_PACKET)
        self._unsent: list[bytes] = []

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give back the descriptor."""
        self._socket.close()

    @property
    def unsent(self) -> bool:
        """True if packets wait for room: poll for writing, then `flush`."""
        return bool(self._unsent)

    @property
    def congested(self) -> bool:
        """True if so much is unsent that no more requests should be taken."""
        return len(self._unsent) > _BACKLOG

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next request and its descriptors, close-on-exec and now the caller's.

        Returns None at the end of the channel.

        Raises:
            BlockingIOError: nothing there.
            Refused: not a JSON object; its descriptors are closed.
        """
        size, ancillary, flags, _ = self._socket.recvmsg_into(
            [self._buffer],
            socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS),
            _CLOEXEC | socket.MSG_DONTWAIT,
        )
        if not size and not ancillary:
            return None
        fds = _descriptors(ancillary)
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise invalid(f"a packet over {MAX_PACKET} bytes or {_MAX_DESCRIPTORS} descriptors")
            request = _parse(bytes(memoryview(self._buffer)[:size]))
            if "body_fd" in request:
                request.update(_body(request.pop("body_fd"), fds))
        except BaseException:
            close_all(fds)
            raise
        return request, fds

    def send(self, packet: dict[str, Any]) -> None:
        """Send a packet, after those that still wait.

        Raises:
            OSError: the host is gone.
        """
        self._unsent.append(encode(packet).encode())
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        sent = 0
        try:
            for data in self._unsent:
                self._socket.send(data, socket.MSG_DONTWAIT | _NOSIGNAL)
                sent += 1
        except BlockingIOError:
            pass  # the caller polls for room, as `unsent` tells it
        finally:
            del self._unsent[:sent]


def close_all(fds: list[int]) -> None:
    """Close these descriptors."""
    for fd in fds:
        os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise invalid(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid("a request must be a JSON object")
    return value


def _body(index: object, fds: list[int]) -> dict[str, Any]:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(fds):
        raise invalid(f"'body_fd': {index!r:.80} is not the index of a descriptor received")
    fd = fds[index]
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_BODY:
        raise Refused("invalid_argument", f"a body must be a file of at most {_MAX_BODY} bytes")
    parts = []
    position = 0
    while part := os.pread(fd, 1 << 20, position):
        parts.append(part)
        position += len(part)
    return _parse(b"".join(parts))
