"""What commands, cells and file operations give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class KilledBy(str, Enum):
    """What ended a command, a cell or a sandbox before its time."""

    MEMORY = "memory"
    CPU = "cpu"
    WALL = "wall"
    PIDS = "pids"
    DISK = "disk"
    OUTPUT = "output"


@dataclass(frozen=True)
class CommandResult:
    """How a command ended.

    `exit_code` is the exit status, or 128 + the signal's number for a command that a signal ended
    (the shell's convention); `signal` names that signal.
    """

    stdout: str
    stderr: str
    exit_code: int
    signal: str | None = None
    killed_by: KilledBy | None = None
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """True if the command ended by itself with status 0."""
        return self.exit_code == 0 and self.killed_by is None


@dataclass(frozen=True)
class Result:
    """One value or display of a cell: a bundle of MIME types.

    Attributes:
        data: MIME type to content; binary types are base64 text, as Jupyter does it.
        is_main_result: true for the value of the cell's last expression.
    """

    data: dict[str, Any]
    is_main_result: bool = False

    def _get(self, mime: str) -> str | None:
        content: str | None = self.data.get(mime)
        return content

    @property
    def text(self) -> str | None:
        """text/plain."""
        return self._get("text/plain")

    @property
    def html(self) -> str | None:
        """text/html."""
        return self._get("text/html")

    @property
    def markdown(self) -> str | None:
        """text/markdown."""
        return self._get("text/markdown")

    @property
    def svg(self) -> str | None:
        """image/svg+xml."""
        return self._get("image/svg+xml")

    @property
    def png(self) -> str | None:
        """image/png, base64."""
        return self._get("image/png")

    @property
    def jpeg(self) -> str | None:
        """image/jpeg, base64."""
        return self._get("image/jpeg")

    @property
    def pdf(self) -> str | None:
        """application/pdf, base64."""
        return self._get("application/pdf")

    @property
    def latex(self) -> str | None:
        """text/latex."""
        return self._get("text/latex")

    @property
    def json(self) -> Any:
        """application/json."""
        return self.data.get("application/json")

    @property
    def javascript(self) -> str | None:
        """application/javascript."""
        return self._get("application/javascript")

    def formats(self) -> list[str]:
        """The MIME types present."""
        return list(self.data)


@dataclass(frozen=True)
class Frame:
    """One line of a traceback: innermost last."""

    filename: str
    line: int
    function: str


@dataclass(frozen=True)
class ExecutionError:
    """The exception that ended a cell."""

    name: str
    value: str
    traceback: str
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Logs:
    """What a cell printed, in the pieces in which it arrived."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Execution:
    """What one cell did."""

    results: list[Result] = field(default_factory=list)
    logs: Logs = field(default_factory=Logs)
    error: ExecutionError | None = None
    execution_count: int | None = None
    killed_by: KilledBy | None = None
    duration: float = 0.0

    @property
    def text(self) -> str | None:
        """text/plain of the last expression's value, or None."""
        return next((r.text for r in self.results if r.is_main_result), None)


@dataclass(frozen=True)
class EntryInfo:
    """One file or directory inside a sandbox.

    Attributes:
        type: ``file``, ``dir``, ``symlink`` or ``other``.
        mode: permission bits, as in stat(2) & 0o7777.
        modified: seconds since the epoch.
    """

    name: str
    path: str
    type: str
    size: int
    mode: int
    owner: str
    group: str
    modified: float
    symlink_target: str | None = None


@dataclass(frozen=True)
class WatchEvent:
    """One change seen by a watch. `type`: create, write, remove, rename, chmod, overflow.

    `path` is relative to the watched directory; on `overflow` events were lost.
    """

    type: str
    path: str


@dataclass(frozen=True)
class Metrics:
    """What a sandbox uses now. Sizes in bytes, times in seconds; None where nothing counts it.

    Attributes:
        cpu_time: used by all its processes, the dead ones included.
        memory: charged to it now, its page cache (`memory_cache`) and its files in tmpfs with it.
        memory_peak: the most that was ever charged.
        pids: processes and threads.
        disk, disk_total: of its own files; what the limit leaves room for.
        inodes, inodes_total: the same for files and directories, counted.
        throttled_periods, throttled_time: how often and how long it waited for its share of CPU.
        oom_kills: processes that the kernel killed for the memory limit.
        network_received, network_sent, connections: None until a network is given and counted.
    """

    cpu_time: float | None
    memory: int | None
    memory_peak: int | None
    pids: int | None
    disk: int | None
    disk_total: int | None
    memory_limit: int | None = None
    memory_cache: int | None = None
    inodes: int | None = None
    inodes_total: int | None = None
    throttled_periods: int | None = None
    throttled_time: float | None = None
    oom_kills: int | None = None
    network_received: int | None = None
    network_sent: int | None = None
    connections: int | None = None


@dataclass(frozen=True, kw_only=True)
class MetricsSample(Metrics):
    """What a sandbox used at one time.

    Attributes:
        timestamp: seconds since the epoch.
        cpu_count: cores that it may use.
        cpu_percent: of one core, since the sample before; None for the first.
    """

    timestamp: float
    cpu_count: float
    cpu_percent: float | None


class SandboxState(str, Enum):
    """Whether a sandbox can be used now."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True)
class SandboxInfo:
    """One sandbox as its owner sees it.

    Attributes:
        started_at, expires_at: seconds since the epoch; `expires_at` is None without a lease.
        pid: of its first process, as the host counts.
    """

    id: str
    template: str
    metadata: dict[str, str]
    started_at: float
    expires_at: float | None
    state: SandboxState
    launcher: str
    pid: int
