"""Processes: start, descriptors, session, user, limits, signals, end."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import sys
from pathlib import Path

import pytest
from guest_host import ROOT, SECONDS, UID, USER, GuestError, Host, pipe, read_all

only_as_root = pytest.mark.skipif(not ROOT, reason="switches users")

# capabilities(7): CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SYS_CHROOT SETFCAP
SHORT_LIST = sum(1 << n for n in (0, 1, 3, 4, 5, 6, 7, 18, 31))
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status_of(host: Host, user: str) -> dict[str, str]:
    lines = host.run("/bin/cat", "/proc/self/status", user=user)[1].splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_says_that_it_is_ready(host: Host) -> None:
    assert host.ready == {"event": "ready", "protocol": 1}


def test_output_and_exit_status(host: Host) -> None:
    status, output = host.run("/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert os.waitstatus_to_exitcode(status) == 7
    assert output == "out\nerr\n"


def test_the_exit_event_tells_the_cpu_time(host: Host) -> None:
    pid = host.start("/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    event = host.exit_of(pid)
    assert event["status"] == 0
    assert 0 < event["cpu"] < 10


def test_each_is_its_own_session_and_group(host: Host) -> None:
    fields = host.shell("cat /proc/self/stat | cut -d' ' -f5,6; echo $$").split()
    assert fields[0] == fields[1] == fields[2]


def test_only_the_mapped_descriptors(host: Host) -> None:
    with pipe() as (out, inner), pipe() as (_, other):
        script = "ls /proc/self/fd; readlink /proc/self/fd/0; echo x >&5"
        fds = {"1": 0, "2": 0, "5": 1}
        request = {"argv": ["/bin/sh", "-c", script], "user": USER, "fds": fds}
        pid = host.request("start", (inner, other), **request)["pid"]
        os.close(inner)
        # 3 is the directory that ls reads.
        assert read_all(out).split() == [b"0", b"1", b"2", b"3", b"5", b"/dev/null"]
    assert host.exit_of(pid)["status"] == 0


def test_descriptors_may_be_mapped_crosswise(host: Host) -> None:
    with pipe() as (out, out_inner), pipe() as (err, err_inner):
        script = "echo one; echo two >&2"
        fds = {"1": 1, "2": 0}
        request = {"argv": ["/bin/sh", "-c", script], "user": USER, "fds": fds}
        host.request("start", (out_inner, err_inner), **request)
        os.close(out_inner)
        os.close(err_inner)
        assert (read_all(out), read_all(err)) == (b"two\n", b"one\n")


def test_signals_are_default_and_open_and_the_umask_is_022(host: Host) -> None:
    status = status_of(host, USER)
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) == 0
    assert status["Umask"] == "0022"


def test_the_user_holds_no_capability(host: Host) -> None:
    status = status_of(host, USER)
    assert status["NoNewPrivs"] == "1"
    names = SETS if ROOT else [name for name in SETS if name != "CapBnd"]
    assert {name: int(status[name], 16) for name in names} == dict.fromkeys(names, 0)
    assert status["Uid"].split() == [str(UID)] * 4


@only_as_root
def test_root_holds_exactly_the_short_list(host: Host) -> None:
    status = status_of(host, "root")
    expected = {"CapInh": 0, "CapAmb": 0} | dict.fromkeys(
        ("CapPrm", "CapEff", "CapBnd"), SHORT_LIST
    )
    assert {name: int(status[name], 16) for name in SETS} == expected


@only_as_root
def test_a_user_may_be_named_by_number(host: Host) -> None:
    assert host.shell("id -u; id -g; echo $HOME", user="1000").split()[:2] == ["1000", "1000"]


@pytest.mark.skipif(ROOT, reason="root may become anybody")
def test_an_ordinary_account_cannot_become_root(host: Host) -> None:
    assert host.refusal("start", argv=["/bin/true"], user="root") == "unknown_user"


def test_the_environment_is_configured_then_the_users_then_asked_for(host: Host) -> None:
    host.request("configure", env={"A": "1", "B": "1", "USER": "nobody"}, cwd="/tmp")
    output = host.shell("echo $A $B $USER $PWD", env={"B": "2"})
    assert output.split() == ["1", "2", USER, "/tmp"]


def test_limits_are_soft_and_hard(host: Host) -> None:
    host.request("configure", rlimits={"nofile": 64, "fsize": 4096, "core": 0, "nproc": None})
    names = ("Max open files", "Max file size", "Max core file size")
    found = {}
    for line in host.run("/bin/cat", "/proc/self/limits")[1].splitlines():
        for name in names:
            if line.startswith(name):
                found[name] = line[len(name) :].split()[:2]
    assert found == dict(zip(names, (["64", "64"], ["4096", "4096"], ["0", "0"]), strict=True))


def test_a_terminal_is_the_controlling_one(host: Host) -> None:
    master, slave = pty.openpty()
    try:
        script = "tty; ps -o tty= -p $$; echo $TERM; stty size; exec 0<&-"
        fds = {"0": 0, "1": 0, "2": 0}
        argv = ["/bin/sh", "-c", script]
        pid = host.request("start", (slave,), argv=argv, user=USER, tty=True, fds=fds)["pid"]
        name = os.ttyname(slave)
        os.close(slave)
        output = b""
        try:
            while part := os.read(master, 4096):
                output += part
        except OSError:  # EIO: the last one has closed it
            pass
        assert output.decode().split()[:3] == [name, name.removeprefix("/dev/"), "xterm-256color"]
        assert host.exit_of(pid)["status"] == 0
    finally:
        os.close(master)


def test_signals_reach_the_process_or_its_group(host: Host) -> None:
    alone = host.start("/bin/sleep", "1000")
    host.request("signal", pid=alone, signal=signal.SIGTERM)
    assert host.exit_of(alone)["status"] == signal.SIGTERM
    with pipe() as (out, inner):
        argv = ["/bin/sh", "-c", "sleep 1000 & echo; wait"]
        pid = host.request("start", (inner,), argv=argv, user=USER, fds={"1": 0})["pid"]
        os.close(inner)
        assert os.read(out, 1) == b"\n"
        host.request("signal", pid=pid, signal=signal.SIGKILL, group=True)
        assert read_all(out) == b""  # the background process is gone too
    assert host.exit_of(pid)["status"] == signal.SIGKILL


def test_a_group_outlives_its_leader(host: Host) -> None:
    with pipe() as (out, inner):
        argv = ["/bin/sh", "-c", "sleep 1000 & exit 0"]
        pid = host.request("start", (inner,), argv=argv, user=USER, fds={"1": 0})["pid"]
        os.close(inner)
        host.exit_of(pid)
        assert host.refusal("signal", pid=pid, signal=9, group=True) == "process_not_found"
        host.request("signal", pid=pid, signal=9, group=True, foreign=True)
        assert read_all(out) == b""
    foreign = {"pid": os.getpid(), "signal": 9, "foreign": True}
    assert host.refusal("signal", (), **foreign) == "process_not_found"


def test_signals_that_cannot_be_sent(host: Host) -> None:
    pid = host.start("/bin/sleep", "1000")
    assert host.refusal("signal", pid=pid, signal=65) == "unknown_signal"
    assert host.refusal("signal", pid=pid, signal=0) == "unknown_signal"
    assert host.refusal("signal", pid=1, signal=9) == "process_not_found"
    assert host.refusal("signal", pid=os.getpid(), signal=9) == "process_not_found"
    assert host.refusal("signal", pid=-1, signal=9) == "invalid_argument"
    host.request("signal", pid=pid, signal=9)
    host.exit_of(pid)
    assert host.refusal("signal", pid=pid, signal=9) == "process_not_found"


def test_processes_lists_those_alive(host: Host) -> None:
    pid = host.start("/bin/sleep", "1000")
    assert host.request("processes") == {"processes": [{"pid": pid, "argv0": "/bin/sleep"}]}
    host.request("signal", pid=pid, signal=9)
    host.exit_of(pid)
    assert host.request("processes") == {"processes": []}


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["no-such-program"], "file_not_found"),
        (["/no/such/program"], "file_not_found"),
        (["FILE"], "file_access_denied"),
        (["/usr"], "file_access_denied"),
    ],
)
def test_programs_that_do_not_run(host: Host, place: Path, argv: list[str], code: str) -> None:
    place.joinpath("file").write_text("x")
    argv = [argument.replace("FILE", str(place / "file")) for argument in argv]
    with pytest.raises(GuestError, match=argv[0]) as caught:
        host.start(*argv)
    assert caught.value.code == code
    host.request("processes")
    assert not host.exits  # what never ran does not end either


def test_a_script_without_its_interpreter(host: Host, place: Path) -> None:
    script = place / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(GuestError, match="interpreter") as caught:
        host.start(str(script))
    assert caught.value.code == "file_not_found"


def test_a_program_of_no_known_format(host: Host, place: Path) -> None:
    program = place / "program"
    program.write_bytes(b"\x00\x01\x02")
    program.chmod(0o755)
    assert host.refusal("start", argv=[str(program)], user=USER) == "invalid_argument"


def test_a_working_directory_that_cannot_be(host: Host, place: Path) -> None:
    argv = ["/bin/true"]
    missing = str(place / "missing")
    assert host.refusal("start", argv=argv, user=USER, cwd=missing) == "file_not_found"
    assert host.refusal("start", argv=argv, user=USER, cwd="/bin/true") == "not_a_directory"
    # A default one that has gone does not keep anything from starting.
    host.request("configure", cwd=missing)
    assert host.run("/bin/pwd") == (0, "/\n")


def test_arguments_and_variables_that_are_not_utf8(host: Host) -> None:
    raw = os.fsdecode(b"\xff\xfe")
    with pipe() as (out, inner):
        argv = ["/bin/sh", "-c", 'printf %s "$1$V"', "sh", raw]
        request = {"argv": argv, "user": USER, "env": {"V": raw}, "fds": {"1": 0}}
        host.request("start", (inner,), **request)
        os.close(inner)
        assert read_all(out) == b"\xff\xfe\xff\xfe"


def test_a_large_request_travels_in_a_file(host: Host) -> None:
    memory = os.memfd_create("body")
    os.write(memory, b'{"env":{"V":"%s"}}' % (b"x" * 100_000))
    with pipe() as (out, inner):
        argv = ["/bin/sh", "-c", "echo ${#V}"]
        request = {"argv": argv, "user": USER, "fds": {"1": 1}, "body_fd": 0}
        host.request("start", (memory, inner), **request)
        os.close(inner)
        assert read_all(out) == b"100000\n"
    os.close(memory)


def test_an_argument_that_is_too_long_for_the_kernel(host: Host) -> None:
    memory = os.memfd_create("body")
    os.write(memory, b'{"argv":["/bin/echo","%s"]}' % (b"x" * 3_000_000))
    assert host.refusal("start", (memory,), user=USER, body_fd=0) == "invalid_argument"
    os.close(memory)


def test_5000_quick_processes_leave_no_zombie(host: Host) -> None:
    waiting: list[int] = []
    for _ in range(5000):
        waiting.append(host.post("start", argv=["/bin/true"], user=USER))
        if len(waiting) >= 20:
            pid = host.answer(waiting.pop(0))["pid"]
            assert host.exit_of(pid)["status"] == 0
    for n in waiting:
        host.exit_of(host.answer(n)["pid"])
    children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
    assert children.read_text() == ""
    assert host.request("processes") == {"processes": []}


def test_an_orphan_is_reaped(host: Host) -> None:
    with pipe() as (out, inner):
        # The subshell ends at once; the sleep it leaves ends when its stdin does.
        argv = ["/bin/sh", "-c", "(cat <&3 >/dev/null & echo $!)"]
        with pipe() as (source, feed):
            fds = {"1": 0, "3": 1}
            request = {"argv": argv, "user": USER, "fds": fds}
            pid = host.request("start", (inner, source), **request)["pid"]
            os.close(inner)
            os.close(source)
            host.exit_of(pid)
            orphan = int(read_all(out))
            process = os.pidfd_open(orphan)
            assert f"PPid:\t{host.process.pid}\n" in Path(f"/proc/{orphan}/status").read_text()
    assert select.select([process], [], [], SECONDS)[0]
    host.request("processes")
    host.request("processes")  # by then a SIGCHLD that came before has been seen
    assert not Path(f"/proc/{orphan}").exists()
    os.close(process)


def test_a_flood_of_orphans_does_not_keep_the_host_waiting(host: Host) -> None:
    pid = host.start("/bin/sh", "-c", "while :; do (/bin/true &) done")
    for _ in range(20):
        assert host.run("/bin/true") == (0, "")
    host.request("signal", pid=pid, signal=9, group=True)
    host.exit_of(pid)


def test_many_starts_may_be_in_flight(host: Host) -> None:
    numbers = [host.post("start", argv=["/bin/true"], user=USER) for _ in range(50)]
    pids = {host.answer(n)["pid"] for n in numbers}
    assert len(pids) == 50
    for pid in pids:
        assert host.exit_of(pid)["status"] == 0


def test_shutdown_ends_everybody(host: Host) -> None:
    gentle = host.start("/bin/sleep", "1000")
    assert host.request("shutdown", grace=20) == {}
    assert host.exit_of(gentle)["status"] == signal.SIGTERM
    assert host.process.wait(10) == 0


def test_shutdown_does_not_wait_for_the_stubborn() -> None:
    host = Host()
    with pipe() as (out, inner):
        argv = ["/bin/sh", "-c", "trap '' TERM; echo; while :; do sleep 1000; done"]
        host.request("start", (inner,), argv=argv, user=USER, fds={"1": 0})
        os.close(inner)
        assert os.read(out, 1) == b"\n"
        host.request("shutdown", grace=0.1)
        assert host.process.wait(10) == 0
        assert read_all(out) == b""  # nobody holds it any more
    host.close()


def test_the_end_of_the_channel_is_the_end_of_everything() -> None:
    host = Host()
    with pipe() as (out, inner):
        request = {"argv": ["/bin/sleep", "1000"], "user": USER, "fds": {"1": 0}}
        host.request("start", (inner,), **request)
        os.close(inner)
        assert host.close() == 0
        assert read_all(out) == b""


@only_as_root
def test_the_guest_cannot_be_traced(host: Host) -> None:
    script = f"import os; os.open('/proc/{host.process.pid}/mem', os.O_RDONLY)"
    status, output = host.run(sys.executable, "-I", "-S", "-c", script, user="root")
    assert status != 0
    assert "PermissionError" in output


@pytest.mark.skipif(ROOT, reason="root is not bound by RLIMIT_NPROC")
def test_fork_is_refused_when_no_process_is_left(host: Host) -> None:
    resource.prlimit(host.process.pid, resource.RLIMIT_NPROC, (1, 1))
    assert host.refusal("start", argv=["/bin/true"], user=USER) == "process_limit"
