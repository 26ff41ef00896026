"""The sandbox's own accounts, read by hand from its /etc/passwd and /etc/group.

The sandbox's root may write anything there: size, type and numbers are checked, odd lines skipped.
"""

from __future__ import annotations

import os
import stat

from atoll.guest.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_FILE = 1 << 20
_MAX_GROUPS = 64
# 2**32 - 1 means "leave it as it is" to setresuid(2): never an account.
_MAX_ID = (1 << 32) - 2


class Account:
    """Who runs a process."""

    __slots__ = ("gid", "groups", "home", "name", "shell", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str, shell: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home if home.startswith("/") else "/"
        self.shell = shell if shell.startswith("/") else "/bin/sh"
        self.groups: list[int] = [gid]


class _Table:
    """The lines of one colon-separated file, read again whenever it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self.rows: list[list[str]] = []

    def refresh(self) -> bool:
        """Read it if it has changed; True if it has."""
        try:
            info = os.stat(self._path)
        except OSError:
            seen: tuple[int, ...] = ()
        else:
            seen = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if seen == self._seen:
            return False
        self._seen = seen
        self.rows = [line.split(":") for line in _read(self._path).split("\n")] if seen else []
        return True


class Accounts:
    """Finds accounts by name or number, and the names of ids."""

    def __init__(self, users: str = "/etc/passwd", groups: str = "/etc/group") -> None:
        self._passwd = _Table(users)
        self._group = _Table(groups)
        self._by_name: dict[str, Account] = {}
        self._users: dict[int, Account] = {}
        self._groups: dict[int, str] = {}

    def find(self, name: str) -> Account:
        """The account called `name`, or with that number.

        `user` and `root` exist even where the files do not name them.

        Raises:
            Refused: unknown_user.
        """
        self._refresh()
        account = self._by_name.get(name)
        if account is None and name.isdecimal() and name.isascii() and len(name) <= 10:
            account = self._users.get(int(name))
        if account is None:
            raise Refused("unknown_user", f"the sandbox has no user {name!r:.80}")
        return account

    def user_name(self, uid: int) -> str:
        """Its name, or its number as text."""
        account = self._users.get(uid)
        return account.name if account else str(uid)

    def group_name(self, gid: int) -> str:
        """Its name, or its number as text."""
        return self._groups.get(gid) or str(gid)

    def _refresh(self) -> None:
        changed = self._passwd.refresh()
        if not (self._group.refresh() or changed or not self._by_name):
            return
        self._by_name = {}
        self._users = {}
        for account in (*_accounts(self._passwd.rows), *_built_in()):
            self._by_name.setdefault(account.name, account)
            self._users.setdefault(account.uid, account)
        self._groups = {}
        for row in self._group.rows:
            gid = _id(row[2]) if len(row) >= 4 else None
            if gid is None:
                continue
            self._groups.setdefault(gid, row[0])
            for member in row[3].split(","):
                account_of = self._by_name.get(member)
                if account_of and gid not in account_of.groups:
                    account_of.groups = [*account_of.groups, gid][:_MAX_GROUPS]


def _accounts(rows: list[list[str]]) -> Iterator[Account]:
    for row in rows:
        if len(row) < 7 or not row[0] or "\0" in row[5] or "\0" in row[6] or "\0" in row[0]:
            continue
        uid, gid = _id(row[2]), _id(row[3])
        if uid is not None and gid is not None:
            yield Account(row[0], uid, gid, row[5], row[6])


def _built_in() -> Iterator[Account]:
    # Where this process is an ordinary account without walls of its own, that account is `user`.
    own = os.geteuid()
    uid, gid = (1000, 1000) if own == 0 else (own, os.getegid())
    yield Account("user", uid, gid, "/home/user", "/bin/sh")
    yield Account("root", 0, 0, "/root", "/bin/sh")


def _id(value: str) -> int | None:
    if not value.isdecimal() or not value.isascii() or len(value) > 10:
        return None
    number = int(value)
    return number if number <= _MAX_ID else None


def _read(path: str) -> str:
    """The start of a regular file; nothing of anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _MAX_FILE).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)


def lookup(name: str) -> Account:
    """`Accounts().find(name)`, for who needs one account only."""
    return Accounts().find(name)
