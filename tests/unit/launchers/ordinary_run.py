"""Run by test_bubblewrap_ordinary as an ordinary account: one sandbox, what it saw as JSON.

ordinary_run.py DATA_DIR
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from raw_guest import RawGuest

from atoll.engine.templates import Templates
from atoll.launch.bubblewrap import BubblewrapLauncher
from atoll.launch.linux import check
from atoll.model import AtollError, Limits, Mount, SandboxSpec

FREE = Limits(memory=None, cpu=None, pids=None, disk="8M")


async def main() -> dict[str, Any]:
    data_dir = Path(sys.argv[1])
    base = await Templates(data_dir).get("base")
    launcher = BubblewrapLauncher(data_dir)
    handed = data_dir / "handed"
    handed.mkdir()
    (handed / "f").write_text("mine")
    seen: dict[str, Any] = {"uid": os.getuid()}
    try:
        spec = SandboxSpec("one", base, FREE, mounts=(Mount(handed, "/mnt/in"),))
        sandbox = await launcher.launch(spec)
        seen["holes"] = check.check(sandbox.pid, sandbox._expected())
        seen["map"] = Path(f"/proc/{sandbox.pid}/uid_map").read_text().split()
        guest = RawGuest(sandbox.channel)
        seen["id"] = guest.run("id -u; touch ~/x /tmp/y && stat -c %u ~/x")
        seen["status"] = guest.run("grep -E '^Cap' /proc/self/status")[1]
        seen["handed"] = guest.run("cat /mnt/in/f; ! echo x 2>&- > /mnt/in/f")
        seen["refused"] = guest.run("! unshare -U true 2>&- && ! mount -t tmpfs x /tmp 2>&-")[0]
        seen["full"] = guest.run("head -c 20M /dev/zero > ~/big; rm ~/big")[1]
        seen["root"] = guest.run("id -u; touch /etc/x /tmp/y", "root")
        master, slave = sandbox.open_pty(24, 80)
        guest.run_on_terminal("stty size; echo again > $(tty)", slave)
        seen["terminal"] = os.read(master, 100).decode()
        out = SandboxSpec("two", base, FREE, mounts=(Mount(handed, "/mnt/out", read_only=False),))
        try:
            other = await launcher.launch(out)
            seen["out"] = RawGuest(other.channel).run(
                "echo new > /mnt/out/g; stat -c %u /mnt/out/g"
            )
        except AtollError as error:
            seen["out"] = str(error)
        pid = sandbox.pid
    finally:
        await launcher.close()
    seen["alive"] = Path(f"/proc/{pid}").exists()
    try:
        await BubblewrapLauncher(data_dir).launch(SandboxSpec("three", base))
    except AtollError as error:
        seen["limits"] = f"{error.code}: {error}"
    return seen


if __name__ == "__main__":
    try:
        seen = anyio.run(main)
    except AtollError as error:
        seen = {"error": f"{error.code}: {error}"}
    print(json.dumps(seen))
