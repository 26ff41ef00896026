"""`atoll doctor`: what this machine can do, as data. The command line prints it."""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from atoll.launch.linux import doctor_checks, doctor_limits, walls
from atoll.launch.linux.doctor_machine import Check, Machine
from atoll.launch.linux.walls_situation import account_name

CHECKS: tuple[Callable[[Machine], list[Check]], ...] = (
    doctor_checks.kernel,
    doctor_checks.place,
    doctor_checks.user_namespaces,
    doctor_checks.apparmor,
    doctor_checks.mounts,
    doctor_checks.filters,
    doctor_checks.ids,
    doctor_checks.cgroups,
    doctor_limits.capabilities,
    doctor_limits.ceilings,
    doctor_limits.descriptors,
    doctor_limits.data_directory,
    doctor_limits.network_modules,
)


def checks(machine: Machine | None = None) -> list[Check]:
    """Every finding, in the order in which to mend them.

    Args:
        machine: the machine to look at; None looks at this one, and tries things out.
    """
    machine = machine or Machine.here()
    return [finding for check in CHECKS for finding in check(machine)]


def works(findings: list[Check]) -> bool:
    """Whether sandboxes can be made; limits may still have to be gone without."""
    return all(finding.verdict != "fail" for finding in findings)


def report(machine: Machine | None = None) -> dict[str, Any]:
    """What to send with a report of a bug.

    No environment values (only the names of ATOLL_* variables), no names of users or hosts, no
    paths below home.
    """
    machine = machine or Machine.here()
    content = {
        "atoll": _version(),
        "python": platform.python_version(),
        "kernel": machine.kernel,
        "machine": machine.machine,
        "system": _system(machine),
        "column": machine.situation.column.value,
        "works": works(checks(machine)),
        "checks": [asdict(finding) for finding in checks(machine)],
        "walls": {
            name: f"{what.kind.value}: {what.how}"
            for name, what in walls.verdicts(machine.situation).items()
        },
        "probes": dict(machine.probes),
        "features": dict(machine.situation.features),
        "cgroups": {
            "version": machine.layout.version,
            "controllers": sorted(machine.layout.controllers),
        },
        "environment": sorted(n for n in machine.environment if n.startswith("ATOLL_")),
    }
    secrets = _private_words(machine)
    return {key: _without(value, secrets) for key, value in content.items()}


def _version() -> str:
    try:
        return version("atoll")
    except PackageNotFoundError:
        return "not installed"


def _system(machine: Machine) -> str:
    for line in (machine.text("etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "unknown"


def _private_words(machine: Machine) -> list[tuple[re.Pattern[str], str]]:
    """What to take out of every text, and what to put there."""
    found = []
    homes = {str(Path.home()), machine.environment.get("HOME", "")}
    for home in sorted(homes - {"", "/"}, key=len, reverse=True):
        found.append((re.compile(re.escape(home) + r"(?![\w.-])[^\s'\"`,;)]*"), "~/..."))
    found.append((re.compile(r"/home/[^\s'\"`,;)]*"), "~/..."))
    names = {account_name(), machine.situation.account, machine.environment.get("USER", "")}
    # "root" names nobody, and stands in many texts.
    for name in sorted(names - {"", "root", str(os.geteuid())}):
        found.append((re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])"), "<user>"))
    host = socket.gethostname()
    if len(host) > 2:
        found.append((re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])"), "<host>"))
    return found


def _without(value: Any, words: list[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, str):
        for pattern, instead in words:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, dict):
        return {key: _without(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, words) for item in value]
    return value
