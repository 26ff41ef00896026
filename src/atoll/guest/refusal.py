"""Why the guest refuses a request, in the host's words: the codes of `atoll.model.errors`."""

from __future__ import annotations

import errno

_FILE_CODES = {
    errno.ENOENT: "file_not_found",
    errno.EEXIST: "file_exists",
    errno.EACCES: "file_access_denied",
    errno.EPERM: "file_access_denied",
    errno.EROFS: "file_access_denied",
    errno.ETXTBSY: "file_access_denied",
    errno.EBUSY: "file_access_denied",
    errno.ENOTDIR: "not_a_directory",
    errno.EISDIR: "is_a_directory",
    errno.ENOTEMPTY: "directory_not_empty",
    errno.ENXIO: "not_a_regular_file",
    errno.ENODEV: "not_a_regular_file",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.ENAMETOOLONG: "invalid_path",
    errno.ELOOP: "invalid_path",
    errno.EINVAL: "invalid_path",
}


class Refused(Exception):
    """A request that cannot be done.

    Args:
        code: one of the `code`s in the host's error tree.
        message: what failed, with which value, and why.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)

    def as_json(self) -> dict[str, str]:
        """The `error` object of a reply."""
        return {"code": self.code, "message": self.message}


def invalid(message: str) -> Refused:
    """A request that can never work."""
    return Refused("invalid_argument", message)


def of_file(error: OSError, what: str) -> Refused:
    """The refusal for a failed file operation; `what` names it and its path."""
    code = _FILE_CODES.get(error.errno or 0, "file_error")
    return Refused(code, f"{what}: {error.strerror or error}")
