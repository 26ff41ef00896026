"""What one launcher `bubblewrap` makes its sandboxes with: the builder, ids, runtime, filters."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from atoll.launch.bubblewrap_runtime import Runtime
from atoll.launch.linux import identities, seccomp, sub_ids
from atoll.launch.linux.identities import Identities
from atoll.model import WallUnavailable
from atoll.wire.packet_port import PacketPort

START_SECONDS = 30.0
_END_SECONDS = 5.0
_ENTRY = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from atoll.launch.bubblewrap_builder import main; main()"
)
_SOURCE = str(Path(__file__).parents[2])


@dataclass(eq=False)
class Workshop:
    """A running builder and what goes with it; `open` makes one.

    Attributes:
        process: the builder's (`bubblewrap_builder`); each sandbox dies with it.
        builder: the way to it.
        filters: the outer and the inner seccomp program, as descriptors.
    """

    runtime: Runtime
    ids: Identities
    process: subprocess.Popen[bytes]
    builder: PacketPort
    filters: tuple[int, int]
    _undo: ExitStack

    @classmethod
    async def open(cls, runtime: Runtime) -> Workshop:
        """Start the builder.

        Raises:
            WallUnavailable: this account cannot make the namespaces of sandboxes.
        """
        with ExitStack() as undo:
            ids = identities.plan(with_account=True)
            undo.callback(ids.close)
            filters = _program(seccomp.outer_filter()), _program(seccomp.inner_filter())
            for fd in filters:
                undo.callback(os.close, fd)
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(mine.close)
            with theirs:
                process = _spawn_builder(theirs.fileno(), ids.lock)
            builder = PacketPort(mine, "builder of launcher bubblewrap")
            undo.callback(builder.close)
            workshop = cls(runtime, ids, process, builder, filters, undo.pop_all())
        try:
            with anyio.fail_after(START_SECONDS):
                await workshop._settle()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await workshop.close()
            if not isinstance(error, OSError):
                raise
            raise WallUnavailable(
                f"the namespaces of sandboxes cannot be made: {error or 'no answer in time'}",
                hint="`atoll doctor` says what this machine lacks",
            ) from error
        return workshop

    async def _settle(self) -> None:
        ids = self.ids
        config = {"root": ids.idmapped, "first_id": ids.host[0], "id_count": ids.count}
        await self.builder.request(config)
        if not ids.idmapped:
            await sub_ids.map_account(self.process.pid, ids.host, ids.count)
        await self.builder.request({"mapped": True})

    @property
    def broken(self) -> bool:
        """True if the builder has ended."""
        return self.process.poll() is not None

    async def close(self) -> None:
        """End the builder, and with it what it started."""
        self._undo.close()
        await anyio.to_thread.run_sync(_end, self.process)


@functools.cache
def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _spawn_builder(channel: int, ids: int) -> subprocess.Popen[bytes]:
    # With the lock of the ids, so that they stay held for as long as a process of it lives.
    return subprocess.Popen(
        [_interpreter(), "-I", "-S", "-c", _ENTRY, _SOURCE, str(channel)],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(channel, ids),
        start_new_session=True,
    )


def _program(code: bytes) -> int:
    """A seccomp program as a descriptor that bwrap reads to its end; opened again for each."""
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, code)
    return fd


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
