"""The error tree. Every error Atoll raises is one of these.

AtollError
├── InvalidArgument             the caller passed something that can never work
│   ├── UnknownTemplate
│   ├── UnknownLanguage
│   ├── UnknownUser
│   ├── UnknownSignal
│   ├── InvalidPath
│   └── InvalidLimit
├── NotFound
│   ├── SandboxNotFound
│   ├── ProcessNotFound
│   └── ContextNotFound
├── FileError                   a file operation inside the sandbox failed
│   ├── FileNotFound
│   ├── FileAlreadyExists
│   ├── FileAccessDenied
│   ├── NotADirectory
│   ├── IsADirectory
│   ├── DirectoryNotEmpty
│   ├── NotARegularFile
│   └── DiskFull
├── IsolationError              a sandbox was not made, because it could not be made safe
│   ├── LauncherUnavailable     no launcher works here
│   ├── WallUnavailable         one wall cannot be built here
│   ├── LimitUnavailable        one limit cannot be held here
│   ├── NetworkUnavailable      this network policy cannot be enforced here
│   └── WallCheckFailed         the host's check of a built sandbox found a hole
├── TemplateError               a template could not be built or its zygote not started
├── SandboxError                something went wrong in a sandbox that exists
│   ├── SandboxDied
│   ├── GuestBroken             the guest broke the protocol; the sandbox was killed
│   ├── ContextDied
│   ├── ProcessLimitReached
│   └── TimedOut
└── OwnerError                  the data directory or its owner lock cannot be used
"""

from __future__ import annotations

from typing import ClassVar


class AtollError(Exception):
    """Base of all errors.

    Args:
        message: what failed, with which value, and why.
        sandbox_id: the sandbox it happened in, if there is one.
        hint: what the caller can do about it.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, sandbox_id: str | None = None, hint: str | None = None
    ) -> None:
        self.message = message
        self.sandbox_id = sandbox_id
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        where = f"[{self.sandbox_id}] " if self.sandbox_id else ""
        hint = f"\nHint: {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"


class InvalidArgument(AtollError):
    """The caller passed something that can never work."""

    code = "invalid_argument"


class UnknownTemplate(InvalidArgument):
    """No template has this name."""

    code = "unknown_template"


class UnknownLanguage(InvalidArgument):
    """The template has no interpreter for this language."""

    code = "unknown_language"


class UnknownUser(InvalidArgument):
    """The sandbox has no such user."""

    code = "unknown_user"


class UnknownSignal(InvalidArgument):
    """No signal has this name or number."""

    code = "unknown_signal"


class InvalidPath(InvalidArgument):
    """A path holds a NUL byte, is empty or is too long (path_resolution(7): 4095 bytes)."""

    code = "invalid_path"


class InvalidLimit(InvalidArgument):
    """A limit is negative, zero or not a size."""

    code = "invalid_limit"


class NotFound(AtollError):
    """What was named does not exist, or no longer does."""

    code = "not_found"


class SandboxNotFound(NotFound):
    """No owner of this user has a sandbox with this id."""

    code = "sandbox_not_found"


class ProcessNotFound(NotFound):
    """The sandbox has no process with this pid or tag."""

    code = "process_not_found"


class ContextNotFound(NotFound):
    """The sandbox has no context with this id."""

    code = "context_not_found"


class FileError(AtollError):
    """A file operation inside the sandbox failed."""

    code = "file_error"


class FileNotFound(FileError):
    """ENOENT: nothing at this path."""

    code = "file_not_found"


class FileAlreadyExists(FileError):
    """EEXIST: the target is already there."""

    code = "file_exists"


class FileAccessDenied(FileError):
    """EACCES, EPERM or EROFS: the user inside may not do this."""

    code = "file_access_denied"


class NotADirectory(FileError):
    """ENOTDIR: a directory was expected."""

    code = "not_a_directory"


class IsADirectory(FileError):
    """EISDIR: a file was expected."""

    code = "is_a_directory"


class DirectoryNotEmpty(FileError):
    """ENOTEMPTY: the directory still has entries."""

    code = "directory_not_empty"


class NotARegularFile(FileError):
    """A FIFO, socket or device where a file's bytes were expected."""

    code = "not_a_regular_file"


class DiskFull(FileError):
    """ENOSPC or EDQUOT: the sandbox's disk limit is reached."""

    code = "disk_full"


class IsolationError(AtollError):
    """A sandbox was not made, because it could not be made as safe as asked."""

    code = "isolation"


class LauncherUnavailable(IsolationError):
    """The named launcher, or every launcher, cannot work on this machine."""

    code = "launcher_unavailable"


class WallUnavailable(IsolationError):
    """One wall cannot be built here."""

    code = "wall_unavailable"


class LimitUnavailable(IsolationError):
    """The kernel cannot hold this limit here; pass None for it to go without."""

    code = "limit_unavailable"


class NetworkUnavailable(IsolationError):
    """This network policy cannot be enforced here."""

    code = "network_unavailable"


class WallCheckFailed(IsolationError):
    """The host looked at a built sandbox from outside and found a wall missing."""

    code = "wall_check_failed"


class TemplateError(AtollError):
    """A template could not be built, or its zygote could not be started."""

    code = "template"


class SandboxError(AtollError):
    """Something went wrong in a sandbox that exists."""

    code = "sandbox"


class SandboxDied(SandboxError):
    """The sandbox is gone: killed, out of memory, or its guest exited."""

    code = "sandbox_died"


class GuestBroken(SandboxError):
    """The guest sent something that the protocol does not allow; its sandbox was killed."""

    code = "guest_broken"


class ContextDied(SandboxError):
    """The interpreter of a context exited; restart it or make another."""

    code = "context_died"


class PortRefused(SandboxError):
    """Nothing in the sandbox answers on the port."""

    code = "port_refused"


class ProcessLimitReached(SandboxError):
    """The sandbox already runs `Limits.max_processes` commands, or its pids are used up."""

    code = "process_limit"


class TimedOut(SandboxError):
    """An operation on a sandbox did not end in time."""

    code = "timed_out"


class OwnerError(AtollError):
    """The data directory cannot be used, or another owner holds it."""

    code = "owner"
