"""The network namespace of a sandbox: loopback, low ports and ping, and no other interface.

Interpreter's modules only: it runs in the trusted processes that prepare sandboxes.
"""

from __future__ import annotations

import fcntl
import socket
import struct

from atoll.launch.linux.user_namespaces import write

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def settle(first_group: int, last_group: int) -> None:
    """Make this process's fresh network namespace ready for a sandbox with these groups."""
    _loopback_up()
    write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
    write("/proc/sys/net/ipv4/ping_group_range", f"{first_group} {last_group}")


def _loopback_up() -> None:
    """See netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("h", request, 16)[0]
        struct.pack_into("h", request, 16, flags | _IFF_UP)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, request)
