"""Use up what is limited. Each takes the limit and a goal beyond it, and tells how far it came."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable

from atoll.testing.attacks.probes.kit import (
    LIBC,
    Facts,
    Outcome,
    broke,
    call,
    error_name,
    held,
    worst,
)

_PIECE = 1 << 20


def _reached(what: str, got: int, facts: Facts) -> Outcome:
    """Broken if `got` came to the goal, which lies beyond the limit."""
    return Outcome(got < int(facts["goal"]), f"{got} {what} of {facts['goal']}")


def fork_bomb(facts: Facts) -> Outcome:
    """Keep as many children alive at once as the kernel gives."""
    children: list[int] = []
    while len(children) < facts["goal"]:
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            signal.pause()
            os._exit(0)
        children.append(child)
    outcome = _reached("processes", len(children), facts)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    return outcome


def exponential_fork_bomb(facts: Facts) -> Outcome:
    """The real thing: every child forks on; it ends only when the host ends it."""
    del facts
    print("started", flush=True)
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def thread_bomb(facts: Facts) -> Outcome:
    """Keep as many threads alive as the kernel gives."""
    threading.stack_size(65536)
    over = threading.Event()
    threads: list[threading.Thread] = []
    while len(threads) < facts["goal"]:
        thread = threading.Thread(target=over.wait, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        threads.append(thread)
    outcome = _reached("threads", len(threads), facts)
    over.set()
    return outcome


# ---- memory -------------------------------------------------------------------------------------


def _anonymous(facts: Facts) -> int:
    return _map(-1, facts["goal"], mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _shared(facts: Facts) -> int:
    return _map(-1, facts["goal"], mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def _memfd(facts: Facts) -> int:
    descriptor = os.memfd_create("atoll", 0)
    os.ftruncate(descriptor, facts["goal"])
    return _map(descriptor, facts["goal"], mmap.MAP_SHARED)


def _map(descriptor: int, size: int, flags: int) -> int:
    area = mmap.mmap(descriptor, size, flags=flags)
    touched = 0
    while touched < size:
        area[touched : touched + _PIECE] = b"\1" * _PIECE
        touched += _PIECE
    return touched


def _tmpfs(directory: str) -> Callable[[Facts], int]:
    def fill(facts: Facts) -> int:
        return _write_files(directory, facts["goal"])

    return fill


def _write_files(directory: str, goal: int) -> int:
    """Write files of 8 MiB, below most limits of one file, until `goal` or a full disk."""
    folder = tempfile.mkdtemp(dir=directory)
    written = 0
    try:
        while written < goal:
            with open(f"{folder}/{written}", "wb", buffering=0) as file:
                for _ in range(8):
                    count = file.write(b"\1" * _PIECE)
                    written += count
                    if count < _PIECE or written >= goal:
                        return written
    except OSError:
        return written
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return written


def _system_v(facts: Facts) -> int:
    LIBC.shmat.restype = ctypes.c_void_p
    taken = 0
    while taken < facts["goal"]:
        identifier, _ = call("shmget", 0, 16 << 20, 0o1600)
        if identifier == -1:
            break
        address = LIBC.shmat(identifier, None, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            break
        ctypes.memset(address, 1, 16 << 20)
        taken += 16 << 20
    return taken


def _pipes(facts: Facts) -> int:
    """Pipe buffers are kernel memory; they count when the cgroup counts kernel memory."""
    taken = 0
    while taken < facts["goal"]:
        try:
            _, writer = os.pipe2(os.O_NONBLOCK)
        except OSError:
            break
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += os.write(writer, bytes(65536))
    return taken


def _sockets(facts: Facts) -> int:
    kept = []
    taken = 0
    while taken < facts["goal"]:
        try:
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            break
        kept.append(pair)
        pair[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += pair[0].send(bytes(65536))
    return taken


_MEMORY = {
    "anonymous": _anonymous,
    "shared": _shared,
    "memfd": _memfd,
    "/dev/shm": _tmpfs("/dev/shm"),
    "/tmp": _tmpfs("/tmp"),
    "system-v": _system_v,
    "pipes": _pipes,
    "sockets": _sockets,
}


MEMORY_KINDS = tuple(_MEMORY)


def memory_bomb(facts: Facts) -> Outcome:
    """Hold more memory than the limit, of the kind that the facts name."""
    try:
        got = _MEMORY[facts["kind"]](facts)
    except (OSError, MemoryError) as error:
        return held(f"{facts['kind']}: {error}")
    return _reached(f"bytes held as {facts['kind']}", got, facts)


# ---- files --------------------------------------------------------------------------------------


def fill_disk(facts: Facts) -> Outcome:
    """Write more into the sandbox's files than its disk limit, into every writable place."""
    if not os.access(facts["directory"], os.W_OK):
        return held(f"{facts['directory']} cannot be written")
    return _reached("bytes written", _write_files(facts["directory"], facts["goal"]), facts)


def fill_inodes(facts: Facts) -> Outcome:
    """Make empty files until the kernel refuses one."""
    folder = tempfile.mkdtemp(dir=facts["directory"])
    made = 0
    end = time.monotonic() + facts.get("seconds", 30)
    try:
        while made < facts["goal"] and time.monotonic() < end:
            os.close(os.open(f"{folder}/{made}", os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError as error:
        return held(f"{made} files, then {error_name(error.errno or 0)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _reached("files made", made, facts)


def huge_file(facts: Facts) -> Outcome:
    """Make one file larger than the limit: by truncate, by fallocate, and by writing at its end."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    goal = int(facts["goal"])
    tried = []
    attempts = (
        lambda fd: os.ftruncate(fd, goal),
        lambda fd: os.posix_fallocate(fd, goal - _PIECE, _PIECE),
        lambda fd: os.pwrite(fd, b"x", goal - 1),
    )
    for attempt in attempts:
        descriptor, path = tempfile.mkstemp(dir=facts["directory"])
        with contextlib.suppress(OSError):
            attempt(descriptor)
        tried.append(_reached("bytes in one file", os.fstat(descriptor).st_size, facts))
        os.close(descriptor)
        os.unlink(path)
    return worst(tried)


def deep_directory(facts: Facts) -> Outcome:
    """Nest directories: what has to remove them must not recurse on its own stack."""
    folder = tempfile.mkdtemp(dir=facts["directory"])
    os.chdir(folder)
    depth = 0
    while depth < facts["depth"]:
        os.mkdir("d" * 100)
        os.chdir("d" * 100)
        depth += 1
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY))
    return held(f"{depth} levels")


# ---- descriptors and kernel objects -------------------------------------------------------------


def open_files(facts: Facts) -> Outcome:
    """Open descriptors of one process until the kernel refuses."""
    return _reached("descriptors", _take(lambda: os.open("/dev/null", os.O_RDONLY), facts), facts)


def inotify(facts: Facts) -> Outcome:
    """Take inotify instances: they are counted per user, so a shared uid would starve the host."""
    return _reached("inotify instances", _take(_inotify_instance, facts), facts)


def _inotify_instance() -> int:
    descriptor = LIBC.inotify_init1(0)
    if descriptor == -1:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    return int(descriptor)


def _take(make: Callable[[], int], facts: Facts) -> int:
    taken: list[int] = []
    taken_all = ""
    try:
        while len(taken) < facts["goal"]:
            taken.append(make())
    except OSError as error:
        taken_all = error_name(error.errno or 0)
    count = len(taken)
    if facts.get("hold"):
        # Stay with all of them in hand while the host looks at what it and the neighbour still get.
        print(f"holding {count} {taken_all}", flush=True)
        time.sleep(facts["hold"])
    return count


def spin(facts: Facts) -> Outcome:
    """Burn CPU in several processes; the host counts what it was given."""
    seconds, count = float(facts["seconds"]), int(facts["processes"])
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
            os._exit(0)
        children.append(child)
    started, before = time.monotonic(), os.times()
    for child in children:
        os.waitpid(child, 0)
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    share = used / (time.monotonic() - started)
    return Outcome(share < facts["goal"], f"{share:.2f} cores, limit {facts['limit']}")


def dump_core(facts: Facts) -> Outcome:
    """Crash, and look for a core file where the kernel would put one."""
    folder = tempfile.mkdtemp(dir=facts["directory"])
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        with contextlib.suppress(OSError, ValueError):
            import resource

            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        call("prctl", 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(10)
    _, status = os.waitpid(child, 0)
    left = os.listdir(folder)
    shutil.rmtree(folder)
    dumped = bool(left) or os.WCOREDUMP(status)
    return broke(f"core dumped: {left}") if dumped else held("no core was dumped")


# ---- output and time ----------------------------------------------------------------------------


def flood(facts: Facts) -> Outcome:
    """Write without end to stdout; only the host stops it."""
    piece = bytes(range(256)) * 256 if facts.get("binary") else b"x" * 65536
    while True:
        try:
            os.write(int(facts.get("descriptor", 1)), piece)
        except OSError as error:
            return held(f"the stream was closed: {errno.errorcode.get(error.errno or 0)}")
