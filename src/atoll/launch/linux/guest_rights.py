"""What a sandbox's guest is left with on Linux, whichever launcher made it."""

from __future__ import annotations

from atoll.guest.privileges import ROOT_CAPABILITIES as ROOT_CAPABILITIES
from atoll.guest.privileges import ROOT_CAPABILITY_NUMBERS

# What the sandbox's root keeps, and SETPCAP, with which the guest takes even that away.
GUEST_CAPABILITY_NUMBERS = ROOT_CAPABILITY_NUMBERS | {"SETPCAP": 8}
GUEST_CAPABILITIES = ROOT_CAPABILITIES | 1 << 8

# Files of /proc that tell about the machine, that any id may read, and that nothing inside needs.
# (kcore, timer_list, sysrq-trigger and the like belong to a root that no sandbox has.)
MASKED = ("keys", "interrupts", "cmdline", "kallsyms")
MASKED_DIRECTORIES = ("bus", "acpi", "scsi", "asound")

# What a root needs to write in where no id map gives the template's directories to the sandbox.
OWN_DIRECTORIES = (
    ("etc", 0o755, "root"),
    ("home", 0o755, "root"),
    ("home/user", 0o755, "user"),
    ("mnt", 0o755, "root"),
    ("root", 0o700, "root"),
    ("run", 0o755, "root"),
    ("srv", 0o755, "root"),
    ("tmp", 0o1777, "root"),
    ("var", 0o755, "root"),
    ("var/cache", 0o755, "root"),
    ("var/lib", 0o755, "root"),
    ("var/log", 0o755, "root"),
    ("var/tmp", 0o1777, "root"),
)
