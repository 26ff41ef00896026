"""The launcher bubblewrap on this machine as root: what is built, what holds, what is left."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from raw_guest import RawGuest, has_ended

from atoll.launch import bubblewrap_sandbox
from atoll.launch.bubblewrap import BubblewrapLauncher
from atoll.launch.bubblewrap_runtime import Runtime
from atoll.launch.bubblewrap_sandbox import BubblewrapSandbox
from atoll.launch.linux import check
from atoll.launch.linux.cgroups_detect import detect
from atoll.launch.linux.guest_rights import ROOT_CAPABILITIES
from atoll.model import (
    InvalidPath,
    KilledBy,
    Layer,
    Limits,
    Mount,
    SandboxDied,
    SandboxSpec,
    Template,
    TemplateError,
    WallCheckFailed,
    WallUnavailable,
)

pytestmark = pytest.mark.usefixtures("root_and_bwrap")
NS_GET_USERNS = 0xB701
PYTHON = "/.atoll/python/loader --library-path /.atoll/python/libraries /.atoll/python/bin/python"

LINGERING = "sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 >/dev/null 2>&1 &"

Body = Callable[[BubblewrapSandbox, RawGuest], Awaitable[None] | None]


def with_sandbox(data_dir: Path, spec: SandboxSpec, body: Body) -> None:
    """Build one sandbox, hand it to `body`, and take it down."""

    async def main() -> None:
        launcher = BubblewrapLauncher(data_dir, owner="launcher-tests")
        try:
            sandbox = await launcher.launch(spec)
            done = body(sandbox, RawGuest(sandbox.channel))
            if done is not None:
                await done
        finally:
            await launcher.close()

    anyio.run(main)


def running(pid: int) -> bool:
    """Whether there is such a process, other than bwrap's own remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def traces(name: str) -> list[str]:
    """Processes, cgroups and mounts of this machine that have to do with `name` or a builder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                words = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(parent) in (os.getpid(), 1) and b"bubblewrap_builder" in words:
                found.append(f"process {entry.name}")
    for top in ("/sys/fs/cgroup",):
        found += [str(path) for path in Path(top).glob(f"**/{name}") if path.is_dir()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [line for line in mounts if name in line or "/rw/0u" in line]


def test_a_command_runs_and_nothing_is_left(data_dir: Path, base: Template) -> None:
    name = "left-nothing"
    before = (len(list(Path("/proc/self/fd").iterdir())), traces(name))
    pids = []

    def body(sandbox: BubblewrapSandbox, guest: RawGuest) -> None:
        pids.append(sandbox.pid)
        assert guest.run("true") == (0, "")
        assert os.waitstatus_to_exitcode(guest.run("exit 3")[0]) == 3
        assert guest.run(f"{LINGERING} echo out")[0] == 0

    with_sandbox(data_dir, SandboxSpec(name, base), body)
    files = {path.name for path in data_dir.iterdir()}
    with_sandbox(data_dir, SandboxSpec(name, base), body)
    assert {path.name for path in data_dir.iterdir()} == files
    assert (len(list(Path("/proc/self/fd").iterdir())), traces(name)) == before
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_destroy_may_be_called_twice_and_the_sandbox_is_then_dead(
    data_dir: Path, base: Template
) -> None:
    async def body(sandbox: BubblewrapSandbox, _: RawGuest) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sandbox.destroy)
            group.start_soon(sandbox.destroy)
        await sandbox.destroy()
        with pytest.raises(SandboxDied):
            sandbox.metrics()

    with_sandbox(data_dir, SandboxSpec("twice", base), body)


def test_user_has_no_capability_and_root_the_short_list(data_dir: Path, base: Template) -> None:
    def body(_: BubblewrapSandbox, guest: RawGuest) -> None:
        for user, wanted in (("user", {0}), ("root", {0, ROOT_CAPABILITIES})):
            status, text = guest.run("grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status", user)
            assert status == 0
            masks = {int(line.split()[1], 16) for line in text.splitlines() if "Cap" in line}
            assert masks == wanted
            assert "NoNewPrivs:\t1" in text and "Seccomp:\t2" in text

    with_sandbox(data_dir, SandboxSpec("caps", base), body)


def test_the_sandboxes_user_namespace_owns_none_of_its_others(
    data_dir: Path, base: Template
) -> None:
    def body(sandbox: BubblewrapSandbox, _: RawGuest) -> None:
        own = Path(f"/proc/{sandbox.pid}/ns/user").stat().st_ino
        host = Path("/proc/self/ns/user").stat().st_ino
        for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
            fd = os.open(f"/proc/{sandbox.pid}/ns/{kind}", os.O_RDONLY)
            owner = fcntl.ioctl(fd, NS_GET_USERNS)
            assert os.fstat(owner).st_ino not in (own, host), kind
            os.close(owner)
            os.close(fd)

    with_sandbox(data_dir, SandboxSpec("owner", base), body)


def test_the_guest_holds_no_descriptor_but_its_own(data_dir: Path, base: Template) -> None:
    def body(sandbox: BubblewrapSandbox, _: RawGuest) -> None:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{sandbox.pid}/fd").iterdir()]
        kinds = sorted(re.sub(r"[:\[\d].*", "", link) for link in links)
        assert kinds.count("socket") == 1
        assert set(kinds) <= {"socket", "/dev/null", "anon_inode", "pipe"}, links

    with_sandbox(data_dir, SandboxSpec("descriptors", base), body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filters": 3}, "2 seccomp filters, not 3"),
        ({"capabilities": 0}, "CapEff holds"),
        ({"uid_map": ((0, 0, 1),)}, "uid_map is"),
        ({"cgroups": {"memory": "/elsewhere", "": "/elsewhere"}}, "cgroup is"),
        ({"root": frozenset({"ext4"})}, "the root is overlay"),
        ({"filesystems": frozenset({"overlay"})}, "a mount of type proc at /proc"),
        ({"bound": {}}, "a mount of type devtmpfs at /dev/null"),
        ({"threads": 0}, "1 threads"),
        ({"in_namespaces": {"net": "net:[1]"}}, "the net namespace is"),
    ],
)
def test_the_check_sees_each_difference(
    data_dir: Path, base: Template, change: dict[str, object], words: str
) -> None:
    def body(sandbox: BubblewrapSandbox, _: RawGuest) -> None:
        expected = sandbox._expected()
        assert check.check(sandbox.pid, expected) == []
        wrong = dataclasses.replace(expected, **change)  # type: ignore[arg-type]
        assert any(words in hole for hole in check.check(sandbox.pid, wrong))
        with pytest.raises(WallCheckFailed):
            check.require(sandbox.pid, wrong, "s")

    with_sandbox(data_dir, SandboxSpec("differences", base), body)


def test_the_check_sees_a_shared_namespace(data_dir: Path, base: Template) -> None:
    def body(sandbox: BubblewrapSandbox, _: RawGuest) -> None:
        for kind, link in check.namespaces_of(sandbox.pid).items():
            expected = sandbox._expected()
            wrong = dataclasses.replace(expected, not_in={**expected.not_in, kind: link})
            assert check.check(sandbox.pid, wrong) == [f"the {kind} namespace is the host's"]

    with_sandbox(data_dir, SandboxSpec("shared", base), body)


def test_a_sandbox_that_fails_the_check_is_not_handed_out(
    data_dir: Path, base: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BubblewrapSandbox._expected
    monkeypatch.setattr(
        BubblewrapSandbox, "_expected", lambda self: dataclasses.replace(real(self), filters=9)
    )
    with pytest.raises(WallCheckFailed, match="2 seccomp filters, not 9"):
        with_sandbox(data_dir, SandboxSpec("refused", base), lambda *_: None)
    assert traces("refused") == []


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo {} >&3", WallCheckFailed, "gone before it could be|could not be checked|beyond"),
        ("exit 7", WallUnavailable, "ended without a word"),
        ("echo a reason >&2", WallUnavailable, "a reason"),
        ("echo {} >&3; sleep 99", WallCheckFailed, "CapBnd|CapEff|CapPrm"),
        ("sleep 99", WallUnavailable, "was not ready in"),
    ],
)
def test_a_guest_that_does_not_behave_is_not_handed_out(
    data_dir: Path,
    base: Template,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(Runtime, "guest", property(lambda _: ("/bin/sh", "-c", script)))
    monkeypatch.setattr(bubblewrap_sandbox, "READY_SECONDS", 2.0)
    with pytest.raises(error, match=words):
        with_sandbox(data_dir, SandboxSpec("misfit", base), lambda *_: None)
    assert traces("misfit") == []


def test_what_builds_sandboxes_is_closed_inside(data_dir: Path, base: Template) -> None:
    def body(_: BubblewrapSandbox, guest: RawGuest) -> None:
        for user in ("user", "root"):
            for command in (
                "unshare -U true",
                "unshare -n true",
                "mount -t tmpfs x /tmp",
                "umount /proc",
                "hostname other",
                "nsenter -t 1 -m true",
                "echo 1 > /proc/sys/net/ipv4/ip_forward",
                "echo b > /proc/sysrq-trigger",
                "touch /dev/x",
                "touch /.atoll/entry.py",
                "cat /proc/1/mem",
            ):
                assert guest.run(command, user)[0] != 0, (user, command)

    with_sandbox(data_dir, SandboxSpec("closed", base), body)


def test_neighbours_have_other_ids(data_dir: Path, base: Template) -> None:
    async def main() -> None:
        launcher = BubblewrapLauncher(data_dir, owner="launcher-tests")
        try:
            pair = [await launcher.launch(SandboxSpec(f"n{i}", base)) for i in range(2)]
            maps = [check.parse_map(Path(f"/proc/{s.pid}/uid_map").read_text()) for s in pair]
            ids = [{first + i for _, first, n in rows for i in range(n)} for rows in maps]
            assert not ids[0] & ids[1]
            spaces = [check.namespaces_of(s.pid) for s in pair]
            assert not set(spaces[0].values()) & set(spaces[1].values())
        finally:
            await launcher.close()

    anyio.run(main)


def test_disk_is_held(data_dir: Path, base: Template) -> None:
    def body(sandbox: BubblewrapSandbox, guest: RawGuest) -> None:
        status, text = guest.run(
            "head -c 20M /dev/zero > /home/user/big; stat -c %s /home/user/big"
        )
        assert "No space left" in text
        assert int(text.split()[-1]) <= 8 << 20
        metrics = sandbox.metrics()
        assert metrics.disk_total == 8 << 20 and metrics.disk == metrics.disk_total
        assert status == 0

    with_sandbox(data_dir, SandboxSpec("disk", base, Limits(disk="8M")), body)


def test_memory_is_held_and_reported(data_dir: Path, base: Template) -> None:
    def body(sandbox: BubblewrapSandbox, guest: RawGuest) -> None:
        if "memory" not in detect().holds:
            pytest.skip("no memory controller here")
        assert sandbox.breach() is None
        status, _ = guest.run(f"{PYTHON} -I -S -c 'bytearray(200 << 20)'")
        assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert sandbox.breach() is KilledBy.MEMORY
        assert sandbox.breach() is None
        assert guest.run("true") == (0, "")

    with_sandbox(data_dir, SandboxSpec("memory", base, Limits(memory="48M")), body)


def test_a_terminal_is_on_the_sandboxes_own_devpts(data_dir: Path, base: Template) -> None:
    def body(sandbox: BubblewrapSandbox, guest: RawGuest) -> None:
        master, slave = sandbox.open_pty(33, 99)
        guest.run_on_terminal("tty; stty size; echo again > $(tty)", slave)
        text = b""
        while select.select([master], [], [], 0.5)[0]:
            text += os.read(master, 4096)
        assert text.split() == [b"/dev/pts/0", b"33", b"99", b"again"]
        os.close(master)
        os.close(slave)

    with_sandbox(data_dir, SandboxSpec("terminal", base), body)


def test_a_paused_sandbox_is_destroyed(data_dir: Path, base: Template) -> None:
    def body(sandbox: BubblewrapSandbox, guest: RawGuest) -> None:
        guest.run(f"{LINGERING} true")
        sandbox.freeze()

    with_sandbox(data_dir, SandboxSpec("paused", base), body)
    assert traces("paused") == []


def test_bwraps_death_kills_everything_in_the_sandbox(data_dir: Path, base: Template) -> None:
    async def body(sandbox: BubblewrapSandbox, guest: RawGuest) -> None:
        guest.run(f"{LINGERING} true")
        inside = sandbox._cgroup.processes() if sandbox._cgroup else []
        assert len(inside) >= 4
        signal.pidfd_send_signal(sandbox._pidfd, signal.SIGKILL)
        assert await anyio.to_thread.run_sync(has_ended, sandbox.channel)
        # Readable when bwrap is dead, and that it is only after its whole pid namespace.
        with anyio.fail_after(5):
            await anyio.wait_readable(sandbox._pidfd)
        assert not [pid for pid in inside if running(pid)]

    with_sandbox(data_dir, SandboxSpec("monitor", base), body)


def test_the_builders_death_kills_its_sandboxes_and_the_next_create_works(
    data_dir: Path, base: Template
) -> None:
    async def main() -> None:
        launcher = BubblewrapLauncher(data_dir, owner="launcher-tests")
        try:
            first = await launcher.launch(SandboxSpec("b1", base))
            builder = first._workshop.process
            builder.kill()
            assert await anyio.to_thread.run_sync(has_ended, first.channel)
            await anyio.to_thread.run_sync(builder.wait)
            second = await launcher.launch(SandboxSpec("b2", base))
            assert RawGuest(second.channel).run("echo on") == (0, "on\n")
            assert not Path(f"/proc/{first.pid}").exists()
            await first.destroy()
        finally:
            await launcher.close()

    anyio.run(main)
    assert traces("b1") + traces("b2") == []


def test_mounts_are_seen_with_the_rights_that_were_asked_for(
    data_dir: Path, base: Template, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("host")
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 4321, 4321)
    os.chown(tmp_path / "f", 4321, 4321)
    mounts = (
        Mount(tmp_path, "/mnt/in"),
        Mount(tmp_path, "/mnt/out", read_only=False),
        Mount(tmp_path / "f", "/mnt/one"),
    )

    def body(_: BubblewrapSandbox, guest: RawGuest) -> None:
        assert guest.run("cat /mnt/in/f /mnt/one") == (0, "hosthost")
        assert guest.run("echo x > /mnt/in/g")[0] != 0
        assert guest.run("echo x > /mnt/one")[0] != 0
        assert guest.run("stat -c %U /mnt/out/f; echo new > /mnt/out/g") == (0, "user\n")
        # Root inside has no id there: it can leave no file of the host's root.
        assert guest.run("echo x > /mnt/out/h", "root")[0] != 0

    with_sandbox(data_dir, SandboxSpec("mounts", base, mounts=mounts), body)
    assert (tmp_path / "g").read_text() == "new\n"
    assert (tmp_path / "g").stat().st_uid == 4321
    assert not (tmp_path / "h").exists()


def test_a_mount_over_a_wall_is_refused(data_dir: Path, base: Template) -> None:
    spec = SandboxSpec("over", base, mounts=(Mount(Path("/tmp"), "/proc"),))
    with pytest.raises(InvalidPath):
        with_sandbox(data_dir, spec, lambda *_: None)


def test_a_host_socket_in_a_template_leads_nowhere(
    data_dir: Path, base: Template, tmp_path: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    (tmp_path / "s").chmod(0o777)
    layers = tuple(layer for layer in base.layers if layer.mountpoint != "/opt")
    template = dataclasses.replace(base, layers=(*layers, Layer("/opt", (tmp_path,))))

    def body(_: BubblewrapSandbox, guest: RawGuest) -> None:
        code = "import socket; socket.socket(socket.AF_UNIX).connect('/opt/s')"
        status, text = guest.run(f'test -S /opt/s && {PYTHON} -I -S -c "{code}"', "root")
        assert status != 0 and "ConnectionRefusedError" in text

    with listener:
        with_sandbox(data_dir, SandboxSpec("socket", template), body)


def foreign_root(directory: Path) -> Path:
    """A root with a shell and its libraries, and nothing else: no Python, no /usr."""
    for program in ("/bin/sh", "/bin/ls"):
        files = [
            program,
            *re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", program], text=True)),
        ]
        for file in files:
            target = directory / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(Path(file).read_bytes())
                target.chmod(0o755)
    return directory


def test_a_root_without_python_works(data_dir: Path, tmp_path: Path) -> None:
    template = Template("foreign", (Layer("/", (foreign_root(tmp_path / "root"),)),))

    def body(_: BubblewrapSandbox, guest: RawGuest) -> None:
        status, text = guest.run("ls -A /; echo home > /x", "root")
        assert status == 0
        assert {".atoll", "dev", "lib", "proc"} <= set(text.split())
        assert "usr" not in text.split()

    with_sandbox(data_dir, SandboxSpec("foreign", template), body)


def test_a_broken_template_is_named(data_dir: Path, base: Template, tmp_path: Path) -> None:
    missing = Template("gone", (Layer("/", (tmp_path / "none",)),))
    with pytest.raises(TemplateError, match="'gone': .*none is not a directory"):
        with_sandbox(data_dir, SandboxSpec("broken-one", missing), lambda *_: None)
    with pytest.raises(TemplateError, match="has no layer for /"):
        with_sandbox(data_dir, SandboxSpec("broken-one", Template("no", ())), lambda *_: None)
    (tmp_path / "dev").write_text("")
    odd = Template("odd", (Layer("/", (tmp_path,)),))
    with pytest.raises(WallUnavailable, match="bwrap could not build it: .*dev"):
        with_sandbox(data_dir, SandboxSpec("broken-one", odd), lambda *_: None)
    assert traces("broken-one") == []
