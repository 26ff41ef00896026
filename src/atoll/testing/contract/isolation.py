"""Two sandboxes beside each other. The attack suite goes further; this is the least of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from atoll.engine import Sandbox
from atoll.model import FileAccessDenied
from atoll.testing.contract.case import Case, Subject

_SERVE = (
    "import http.server, socketserver\n"
    "s = socketserver.TCPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
    "print(s.server_address[1], flush=True); s.serve_forever()"
)
_DIAL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)"


async def files_are_apart(subject: Subject) -> None:
    async with subject.sandbox() as one, subject.sandbox() as other:
        for place in ("/home/user", "/tmp", "/dev/shm", "/var/tmp"):
            await one.files.write(f"{place}/mine", "x", user="root")
            assert not await other.files.exists(f"{place}/mine", user="root")
        # Where nothing maps the template's ids, its files are nobody's and even root may not write.
        with contextlib.suppress(FileAccessDenied):
            await one.files.write("/usr/bin/mine", "x", user="root")
        assert not await other.files.exists("/usr/bin/mine")


async def processes_are_apart(subject: Subject) -> None:
    async with subject.sandbox() as one, subject.sandbox() as other:
        await one.commands.start(["sleep", "424242"])
        look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
        assert "424242" in (await one.commands.run(look)).stdout
        assert "424242" not in (await other.commands.run(look, user="root")).stdout


async def host_ids_are_apart(subject: Subject) -> None:
    """Also of two engines, which know nothing of each other."""
    async with (
        subject.make_engine() as engine,
        subject.sandbox() as one,
        subject.sandbox() as two,
        await subject.create(engine) as other,
    ):
        seen: set[int] = set()
        for sandbox in (one, two, other):
            ids = _host_ids(sandbox)
            assert ids and not ids & seen, f"shared: {sorted(ids & seen)[:5]}"
            seen |= ids


def _host_ids(sandbox: Sandbox) -> set[int]:
    rows = Path(f"/proc/{sandbox.info.pid}/uid_map").read_text().split()
    pairs = zip(map(int, rows[1::3]), map(int, rows[2::3]), strict=True)
    return {first + number for first, count in pairs for number in range(count)}


async def loopback_is_apart(subject: Subject) -> None:
    async with subject.sandbox() as one, subject.sandbox() as other:
        server = await one.commands.start([subject.python, "-c", _SERVE])
        async for _ in server:
            break
        dial = [subject.python, "-c", _DIAL, server.stdout.strip()]
        assert (await one.commands.run(dial)).ok, "it answers in its own sandbox"
        refused = await other.commands.run(dial)
        assert "ConnectionRefusedError" in refused.stderr


async def nothing_of_the_machine_is_seen(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        seen = await sandbox.commands.run(
            "ls -A /home /root /srv /var/lib 2>/dev/null", user="root"
        )
        assert set(seen.stdout.split()) <= {
            "/home:",
            "user",
            "/root:",
            "/srv:",
            "/var/lib:",
            "misc",
        }
        status = (await sandbox.commands.run("cat /proc/self/status")).stdout
        assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status


async def a_killed_sandbox_does_not_touch_the_other(subject: Subject) -> None:
    async with subject.sandbox() as other:
        handle = await other.commands.start(["sleep", "60"])
        async with subject.sandbox() as one:
            await one.commands.run("kill -9 -1", user="root")
        assert handle.exit_code is None
        assert (await other.commands.run("echo on")).stdout == "on\n"


CASES = tuple(
    Case(run.__name__, run, walls=True)
    for run in (
        files_are_apart,
        host_ids_are_apart,
        processes_are_apart,
        loopback_is_apart,
        nothing_of_the_machine_is_seen,
        a_killed_sandbox_does_not_touch_the_other,
    )
)
