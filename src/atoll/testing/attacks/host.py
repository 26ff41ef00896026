"""Facts about this host that probes compare with what they see inside."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

from atoll.testing.attacks.canaries import HostCanary, Token
from atoll.testing.attacks.probes.kit import Facts
from atoll.testing.attacks.probes.namespaces import NAMES

IDENTITY_FILES = (
    *("/etc/passwd", "/etc/shadow", "/etc/machine-id", "/etc/hostname", "/etc/sudoers"),
    *("/etc/ssh/ssh_host_ed25519_key.pub", "/proc/cmdline", "/etc/fstab", "/etc/crontab"),
)


def namespaces_of(pid: int | str) -> dict[str, int]:
    """Inode of each namespace of a process; empty where this user may not look."""
    try:
        return {name: Path(f"/proc/{pid}/ns/{name}").stat().st_ino for name in NAMES}
    except OSError:
        return {}


def own_addresses() -> tuple[str, ...]:
    """IPv4 addresses of this machine besides loopback, from the kernel's routing table."""
    text = Path("/proc/net/fib_trie").read_text()
    local = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", text)
    return tuple(sorted({a for a in local if not a.startswith("127.")}))


def digests(paths: tuple[str, ...] = IDENTITY_FILES) -> dict[str, str]:
    """SHA-256 of each file that this user can read."""
    found = {}
    for path in paths:
        try:
            found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError:
            continue
    return found


def name_servers() -> list[str]:
    """The host's name servers, from resolv.conf(5)."""
    try:
        text = Path("/etc/resolv.conf").read_text()
    except OSError:
        return []
    return re.findall(r"^nameserver\s+(\S+)", text, re.MULTILINE)


def facts_about_host(canary: HostCanary, data_dir: str, engine_token: Token) -> Facts:
    """Everything that probes may know. Tokens appear as hashes only."""
    tokens = {canary.token.digest: "host", engine_token.digest: "engine"}
    return {
        "tokens": tokens,
        "paths": [canary.doors["path"]],
        "names": [Path(canary.doors["path"]).name],
        "ports": [canary.doors["port"]],
        "abstract": [canary.doors["abstract"]],
        "keys": [canary.doors["key"]],
        "pids": [canary.doors["pid"]],
        "addresses": list(own_addresses()),
        "name_servers": name_servers(),
        "namespaces": {"host": namespaces_of("self")},
        "host_files": digests(),
        "host_names": sorted(os.environ),
        "host_name": hashlib.sha256(socket.gethostname().encode()).hexdigest(),
        "data_dir": data_dir,
        "directories": [canary.directory, data_dir, str(Path.home())],
    }
