"""The client's side of SOCKS5 (RFC 1928) with passwords (RFC 1929)."""

from __future__ import annotations

from anyio.abc import ByteStream

from atoll.egress.addresses import Address
from atoll.model import EgressProxy

_VERSION = 5
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_CONNECT = 1
_ADDRESS_LENGTH = {1: 4, 4: 16}
_NAME = 3
_REPLIES = {
    1: "general failure",
    2: "its rules forbid it",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


async def ask_for(stream: ByteStream, proxy: EgressProxy, host: str | Address, port: int) -> None:
    """Have the proxy connect `stream` to a name (resolved there) or an address.

    Raises:
        OSError: it does not, or does not speak SOCKS5.
        EndOfStream, BrokenResourceError: it has gone.
    """
    method = _NO_AUTHENTICATION if proxy.username is None else _PASSWORD
    await stream.send(bytes([_VERSION, 1, method]))
    if await _exactly(stream, 2) != bytes([_VERSION, method]):
        raise OSError("the egress proxy refuses this way to log in")
    if proxy.username is not None and proxy.password is not None:
        user, password = proxy.username.encode(), proxy.password.encode()
        await stream.send(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        if (await _exactly(stream, 2))[1] != 0:
            raise OSError("the egress proxy refuses the username or the password")
    await stream.send(bytes([_VERSION, _CONNECT, 0]) + _spell(host) + port.to_bytes(2, "big"))
    await _read_reply(stream)


def _spell(host: str | Address) -> bytes:
    if isinstance(host, str):
        name = host.encode("ascii")
        return bytes([_NAME, len(name)]) + name
    return bytes([1 if host.version == 4 else 4]) + host.packed


async def _read_reply(stream: ByteStream) -> None:
    version, code, _, kind = await _exactly(stream, 4)
    if version != _VERSION:
        raise OSError("the egress proxy does not speak SOCKS5")
    if code:
        raise OSError(f"the egress proxy: {_REPLIES.get(code, f'failure {code}')}")
    if kind == _NAME:
        length = (await _exactly(stream, 1))[0]
    elif kind in _ADDRESS_LENGTH:
        length = _ADDRESS_LENGTH[kind]
    else:
        raise OSError("the egress proxy answers with an unknown kind of address")
    await _exactly(stream, length + 2)


async def _exactly(stream: ByteStream, count: int) -> bytes:
    """Not a byte more: what follows is the far side's."""
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data
