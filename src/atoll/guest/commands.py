"""From a request to a plan: whose process, which program, where, and with which environment."""

from __future__ import annotations

from atoll.guest import context_programs, fields, files
from atoll.guest.refusal import invalid
from atoll.guest.spawn import RLIMITS, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atoll.guest.fields import Request
    from atoll.guest.users import Account, Accounts

_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Defaults:
    """What `configure` said about every process.

    Attributes:
        null: what stands for descriptors 0 to 2 where a request names none.
    """

    def __init__(self, null: int) -> None:
        self.null = null
        self.env: dict[bytes, bytes] = {}
        self.rlimits: dict[str, int] = {}
        self.cwd: str | None = None


def configured(request: Request, null: int) -> Defaults:
    """The defaults in a `configure` request."""
    defaults = Defaults(null)
    defaults.env = fields.env(request)
    defaults.cwd = fields.optional_text(request, "cwd")
    rlimits = request.get("rlimits")
    rlimits = {} if rlimits is None else rlimits
    if not isinstance(rlimits, dict):
        raise invalid("'rlimits' must be an object")
    for name, value in rlimits.items():
        if name not in RLIMITS:
            raise invalid(f"there is no limit {name!r:.80}; there are {', '.join(RLIMITS)}")
        if value is not None:
            defaults.rlimits[name] = fields.number(rlimits, name)
    return defaults


def command(request: Request, received: list[int], defaults: Defaults, accounts: Accounts) -> Plan:
    """The plan of a `start` request."""
    argv = fields.argv(request)
    plan = _plan(request, fields.descriptors(request, received), defaults, accounts)
    plan.argv = argv
    for number in (0, 1, 2):
        plan.fds.setdefault(number, defaults.null)
    plan.tty = fields.flag(request, "tty")
    if plan.tty:
        if 0 not in fields.descriptors(request, received):
            raise invalid("a terminal must be descriptor 0")
        plan.env.setdefault(b"TERM", b"xterm-256color")
    return plan


def file_worker(
    request: Request, received: list[int], defaults: Defaults, accounts: Accounts
) -> Plan:
    """The plan of a `file` request."""
    account = _account(request, accounts)
    fds = {number: defaults.null for number in (0, 1, 2)}
    fds[1] = fields.descriptor(request, "out", received)
    if request.get("do") == "write":
        fds[0] = fields.descriptor(request, "in", received)
    plan = Plan(account, fds, defaults.rlimits)
    plan.work = files.work(request, account, accounts)
    return plan


def context(
    request: Request, received: list[int], defaults: Defaults, accounts: Accounts
) -> tuple[Plan, bytes]:
    """The plan of a `context` request, and what to call its process."""
    program = context_programs.program(request)
    plan = _plan(request, fields.descriptors(request, received), defaults, accounts)
    if plan.fds.keys() != {1, 2, 3}:
        raise invalid("a context needs exactly the descriptors 1, 2 and 3")
    plan.fds[0] = defaults.null
    if isinstance(program, list):
        plan.argv = program
    else:
        plan.work = lambda: program(plan.env)
    return plan, fields.text(request, "language").encode()


def _account(request: Request, accounts: Accounts) -> Account:
    return accounts.find(fields.optional_text(request, "user") or "user")


def _plan(request: Request, fds: dict[int, int], defaults: Defaults, accounts: Accounts) -> Plan:
    account = _account(request, accounts)
    plan = Plan(account, fds, defaults.rlimits)
    home = fields.encoded(account.home, "the home directory")
    name = fields.encoded(account.name, "the user's name")
    identity = {
        b"HOME": home,
        b"USER": name,
        b"LOGNAME": name,
        b"SHELL": fields.encoded(account.shell, "the shell"),
    }
    plan.env = {b"PATH": _PATH, **defaults.env, **identity, **fields.env(request)}
    cwd = fields.optional_text(request, "cwd")
    plan.strict_cwd = cwd is not None
    plan.cwd = fields.path(cwd if cwd is not None else defaults.cwd or "~", account.home)
    return plan
