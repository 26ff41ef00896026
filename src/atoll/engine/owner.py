"""Who holds which sandboxes: owner directories, their locks and journals, and reaping the dead.

``<data directory>/owners/<id>/`` holds ``lock`` (flocked while the owner lives), ``socket`` (see
owner_socket), ``journal.jsonl`` and ``launch/`` (the launcher's files). The kernel drops the lock
however its holder ends, so a free lock means a dead owner.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import select
import signal
from pathlib import Path

from atoll.engine.trees import remove_tree
from atoll.engine.vault import is_held
from atoll.launch.registry import reap
from atoll.model import InvalidArgument, OwnerError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_ATTEMPTS = 20
_DEATH_SECONDS = 10.0

_log = logging.getLogger(__name__)


def default_data_dir() -> Path:
    """$ATOLL_DATA_DIR, else /var/lib/atoll for root and $XDG_DATA_HOME/atoll for others."""
    named = os.environ.get("ATOLL_DATA_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/atoll")
    home = os.environ.get("XDG_DATA_HOME")
    return Path(home) / "atoll" if home else Path.home() / ".local/share/atoll"


class Owner:
    """One live owner; made by `acquire`.

    Attributes:
        id: its name.
        directory: its own directory.
        has_former_life: a vault still holds sandboxes of a process that was this owner before.
    """

    def __init__(
        self, id: str, directory: Path, lock: int, *, has_former_life: bool = False
    ) -> None:
        self.id = id
        self.has_former_life = has_former_life
        self.directory = directory
        self.journal = Journal(directory / "journal.jsonl")
        self._lock = lock

    @property
    def kernel_name(self) -> str:
        """Its name where the whole machine sees it: in the names of cgroups."""
        return kernel_name(self.directory)

    @property
    def launch_directory(self) -> Path:
        """Where the launcher keeps its files."""
        return self.directory / "launch"

    @property
    def socket_path(self) -> Path:
        """Where it answers `ps`, `exec` and `kill`."""
        return self.directory / "socket"

    @classmethod
    def acquire(cls, data_dir: Path, name: str | None = None) -> Owner:
        """Become the owner `name`, or one with a new name.

        Raises:
            OwnerError: the data directory cannot be used, or a live owner has this name.
            InvalidArgument: not a name.
        """
        if name is not None and not _NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} cannot be an owner's name: use a-z, 0-9 and -")
        id = name or f"engine-{secrets.token_hex(6)}"
        directory = data_dir / "owners" / id
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = _take_lock(directory)
            if lock is None:
                raise OwnerError(
                    f"another process is the owner {id!r} in {data_dir}",
                    hint="stop it, or use another owner name or data directory",
                )
            try:
                alive = is_held(directory)
                if not alive:
                    _reap(directory)  # of a former life under this name, that ended badly
                (directory / "launch").mkdir(mode=0o700, exist_ok=True)
                return cls(id, directory, lock, has_former_life=alive)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise OwnerError(
                f"the data directory {data_dir} cannot be used: {error}",
                hint="set ATOLL_DATA_DIR to a directory that you can write",
            ) from error

    def end_former_life(self, adopted: set[str]) -> None:
        """End what the former process has journaled and this one has not adopted."""
        _, alive = read_journal(self.directory / "journal.jsonl")
        for sandbox, (pid, started) in alive.items():
            if sandbox not in adopted:
                if started is not None:
                    _kill_exactly(pid, started)
                self.journal.gone(sandbox)

    def release(self, *, clean: bool) -> None:
        """Stop being an owner. Its directory goes if all is clean; else a later start reaps."""
        if self._lock < 0:
            return
        self.journal.close()
        try:
            if clean:
                remove_tree(self.directory)
        except OSError as error:
            _log.warning("%s could not be removed: %s", self.directory, error)
        finally:
            os.close(self._lock)
            self._lock = -1


class Journal:
    """What an owner has made, one JSON object a line, appended before anything else can fail."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def launcher(self, name: str) -> None:
        """The launcher of all sandboxes that follow."""
        self._append({"op": "launcher", "name": name})

    def launched(self, sandbox: str, pid: int, template: str) -> None:
        """A sandbox exists; `pid` is its first process."""
        entry = {"op": "launched", "id": sandbox, "pid": pid, "template": template}
        self._append({**entry, "started": start_time(pid)})

    def gone(self, sandbox: str) -> None:
        """Nothing of a sandbox is left."""
        self._append({"op": "gone", "id": sandbox})

    def close(self) -> None:
        """Write no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, entry: dict[str, object]) -> None:
        if self._fd >= 0:
            os.write(self._fd, json.dumps(entry).encode() + b"\n")


def read_journal(path: Path) -> tuple[str | None, dict[str, tuple[int, str | None]]]:
    """The launcher's name, and the sandboxes not gone: id to (pid, start time).

    The last line may be half written: its owner was killed in the middle.
    """
    launcher: str | None = None
    alive: dict[str, tuple[int, str | None]] = {}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None, {}
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["op"] == "launcher":
                launcher = entry["name"]
            elif entry["op"] == "launched":
                alive[entry["id"]] = (int(entry["pid"]), entry["started"])
            else:
                alive.pop(entry["id"], None)
        except (ValueError, KeyError, TypeError):
            continue
    return launcher, alive


def start_time(pid: int) -> str | None:
    """When a process started, as the kernel says it (proc_pid_stat(5), field 22); None if gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        stat = os.read(fd, 4096).decode(errors="replace")
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return stat[stat.rindex(")") + 2 :].split()[19]


def reap_dead(data_dir: Path, own: Owner | None = None) -> list[str]:
    """Remove all that dead owners left: processes, cgroups, directories. Returns their names.

    What a live owner holds is not touched: its lock is held. What cannot be removed is logged and
    stays for the next start.
    """
    reaped = []
    try:
        directories = sorted((data_dir / "owners").iterdir())
    except FileNotFoundError:
        return []
    for directory in directories:
        name = directory.name
        if (own is not None and name == own.id) or not directory.is_dir():
            continue
        try:
            lock = _take_lock(directory, make=False)
            if lock is None:
                continue
            try:
                if is_held(directory):
                    continue  # its sandboxes live and wait for it, for a while
                _reap(directory)
                remove_tree(directory)
                reaped.append(name)
            finally:
                os.close(lock)
        except OSError as error:
            _log.warning("what the dead owner %s left is not all removed: %s", name, error)
    return reaped


def kernel_name(directory: Path) -> str:
    """An owner's name that no owner in another data directory has."""
    place = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:8]
    return f"{directory.name}-{place}"


def _reap(directory: Path) -> None:
    """Remove all that an owner left, but its directory and its lock, which the caller holds."""
    launcher, alive = read_journal(directory / "journal.jsonl")
    for pid, started in alive.values():
        if started is not None:
            _kill_exactly(pid, started)
    if launcher is not None and not reap(launcher, kernel_name(directory)):
        raise OSError("its cgroups are still in use")
    remove_tree(directory / "launch")
    for path in directory.iterdir():
        if path.name != "lock":
            path.unlink()


def _kill_exactly(pid: int, started: str) -> None:
    """SIGKILL the process that had this pid and start time, and no other; wait for its end."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time(pid) == started:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _DEATH_SECONDS)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _take_lock(directory: Path, *, make: bool = True) -> int | None:
    """The lock of an owner's directory, or None if somebody alive holds it.

    A reaper may remove the directory between open and flock: a lock counts only if the path still
    leads to it.
    """
    path = directory / "lock"
    for _ in range(_ATTEMPTS):
        if make:
            directory.parent.mkdir(exist_ok=True, mode=0o700)
            directory.mkdir(exist_ok=True, mode=0o700)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if make:
                continue
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise OwnerError(f"the lock of {directory} changes hands too fast")
