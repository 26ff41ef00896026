"""What a process starts with: descriptors, environment, memory, terminal, signals, directory."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import stat
from pathlib import Path

from atoll.testing.attacks.probes.kit import (
    Facts,
    Outcome,
    broke,
    held,
    read_some,
    tokens_in,
    worst,
)

_ORDINARY_NAMES = frozenset(
    [
        "PATH",
        "HOME",
        "LANG",
        "LANGUAGE",
        "TERM",
        "USER",
        "SHELL",
        "PWD",
        "OLDPWD",
        "LOGNAME",
        "HOSTNAME",
        "TZ",
        "SHLVL",
        "_",
        "LC_ALL",
        "LC_CTYPE",
        "PYTHONUNBUFFERED",
        "TMPDIR",
        "COLUMNS",
        "LINES",
        "MAIL",
        "EDITOR",
        "PAGER",
    ]
)


def descriptors(facts: Facts) -> Outcome:
    """List what is open: 0 to 2, and in a context also its anonymous objects; never a directory."""
    own_kinds = tuple(facts.get("own", ()))
    tried = []
    for number in range(1024):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        name = os.readlink(f"/proc/self/fd/{number}")
        own = (
            number < 3 or bool(own_kinds) and name.replace("anon_inode:[", "").startswith(own_kinds)
        )
        fine = own and not stat.S_ISDIR(mode) and not stat.S_ISBLK(mode)
        tried.append(Outcome(fine, f"{number} is {name}"))
    return worst(tried)


def environment(facts: Facts) -> Outcome:
    """Look for tokens in the environment and for names that only the host's environment has."""
    data = read_some("/proc/self/environ")
    found = [f"the token {name}" for name in tokens_in(data, facts)]
    found += [f"the token {name}" for name in tokens_in(repr(os.environ).encode(), facts)]
    strange = set(os.environ) & set(facts["host_names"]) - _ORDINARY_NAMES
    found += [f"the host's variable {name}" for name in sorted(strange)]
    return broke("; ".join(found)) if found else held(f"{len(os.environ)} variables, all our own")


def memory(facts: Facts) -> Outcome:
    """Search our own memory for the host's secrets: a fork shows what its parent held."""
    found: list[str] = []
    searched = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory_file:
        for line in maps.readlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if not match or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            try:
                memory_file.seek(start)
                data = memory_file.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue
            searched += len(data)
            found += tokens_in(data, facts)
    if found:
        return broke(f"our memory holds {sorted(set(found))}")
    if searched < 1 << 20:
        return broke(f"only {searched} bytes could be searched")
    return held(f"{searched >> 20} MiB searched")


def attributes(facts: Facts) -> Outcome:
    """Compare umask, signals, terminal, priority, directory with those of a fresh login."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    # Python itself ignores SIGPIPE and SIGXFSZ, and a shell may wait for its children.
    ignored = int(fields["SigIgn"], 16) & ~_bits(signal.SIGPIPE, signal.SIGXFSZ)
    terminal = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[4]
    checks = {
        f"umask {fields['Umask']}": fields["Umask"] == "0022",
        f"blocked signals {fields['SigBlk']}": int(fields["SigBlk"], 16) == 0,
        f"ignored signals {ignored:x}": ignored == 0,
        f"controlling terminal {terminal}": terminal == "0",
        f"priority {os.getpriority(os.PRIO_PROCESS, 0)}": os.getpriority(0, 0) >= 0,
        f"directory {os.getcwd()}": not os.getcwd().startswith(tuple(facts["directories"])),
        f"session {os.getsid(0)}": os.getsid(0) != 0,
    }
    return worst(Outcome(fine, name) for name, fine in checks.items())


def host_name(facts: Facts) -> Outcome:
    """Compare the host name with the host's."""
    name = os.uname().nodename
    same = hashlib.sha256(name.encode()).hexdigest() == facts["host_name"]
    return broke("the host's name shows") if same else held(f"the name is {name}")


def _bits(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)
