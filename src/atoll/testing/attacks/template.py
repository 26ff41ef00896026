"""Attacks by a template: its preload runs in the heavy zygote, before any sandbox of it exists."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio

from atoll.model import AtollError, Layer, Template
from atoll.testing.attacks.arena import PYTHON, Arena, processes_below
from atoll.testing.attacks.host import namespaces_of
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import (
    files,
    hostile,
    inherited,
    kernel_surface,
    namespaces,
    network,
    processes,
)
from atoll.testing.attacks.probes.kit import Facts
from atoll.testing.attacks.resources import host_inotify
from atoll.testing.attacks.script import ProbeFunction, compose_module
from atoll.testing.fitting import fitting

SECTION = "template"
MODULE = "atoll_hostile_preload"
_READ = f"import json, {MODULE}; print(json.dumps({MODULE}.OUTCOMES))"

OWN_SETTINGS = ["msg_next_id", "sem_next_id", "shm_next_id", "ns_last_pid", "pid_max"]
"""Of the zygote's own ipc and pid namespaces (ipc_namespaces(7), pid_namespaces(7))."""

# Forgets every step that puts a fork of the zygote behind the sandbox's walls.
_SKIP = """
import sys
zygote = sys.modules["__main__"]
privileges = sys.modules.get("atoll.guest.privileges")
if "filter" in {steps!r}:
    zygote._install = lambda program: None
if "user" in {steps!r} and privileges is not None:
    privileges.become = lambda account, powers: None
if "namespaces" in {steps!r}:
    enter = zygote._setns
    zygote._setns = lambda fd, kind: None if kind in {kinds!r} else enter(fd, kind)
"""

_LOOK = """
import json, os, re
names = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
seen = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in names}
status = open("/proc/self/status").read()
seen["walls"] = re.findall(r"(Seccomp_filters|CapEff|Uid):\\s+(\\S+)", status)
print(json.dumps(seen))
"""


def hostile_template(base: Template, directory: Path, source: str) -> Template:
    """`base` with a layer in `directory` that holds a module of `source`, which it preloads."""
    ask = "import site; print(site.getsitepackages()[0])"
    found = subprocess.run([PYTHON, "-I", "-c", ask], capture_output=True, text=True, check=True)
    packages = Path(found.stdout.strip())
    layers = []
    below = max(
        (layer for layer in base.layers if packages.is_relative_to(layer.mountpoint)),
        key=lambda layer: len(layer.mountpoint),
    )
    folder = directory / packages.relative_to(below.mountpoint)
    folder.mkdir(parents=True)
    directory.chmod(0o755)
    (folder / f"{MODULE}.py").write_text(source)
    for layer in base.layers:
        lowers = (directory, *layer.lowers) if layer is below else layer.lowers
        layers.append(Layer(layer.mountpoint, lowers))
    name = f"hostile-{os.urandom(4).hex()}"
    return replace(base, name=name, layers=tuple(layers), python=PYTHON, preload=(MODULE,))


@asynccontextmanager
async def _preloading(arena: Arena, source: str) -> AsyncIterator[Template]:
    base = await arena.engine.templates.get("base")
    with tempfile.TemporaryDirectory(prefix="layer-", dir=arena.data_dir) as directory:
        yield hostile_template(base, Path(directory), source)


async def _outcomes(arena: Arena, probes: dict[str, tuple[ProbeFunction, Facts]]) -> Verdict:
    """Preload a module that makes the attempts; a context that is forked later tells of them."""
    source = compose_module(probes, arena.facts)
    async with (
        _preloading(arena, source) as template,
        await arena.engine.create(template, limits=fitting(None, arena.unheld)) as sandbox,
    ):
        execution = await sandbox.run_code(_READ)
    output = "".join(execution.logs.stdout)
    if not output:
        return Verdict(False, f"the preload told nothing: {execution.error}", "in the zygote")
    told = json.loads(output.strip().splitlines()[-1])
    return all_of([(name, bool(told[name][0]), told[name][1]) for name in probes])


async def _reach_out(arena: Arena) -> Verdict:
    probes: dict[str, tuple[ProbeFunction, Facts]] = {
        "own walls": (hostile.own_walls, {}),
        "loopback": (network.connect, {}),
        "outside": (network.leave_the_machine, {}),
        "abstract sockets": (network.abstract_sockets, {}),
        "socket families": (network.families, {}),
        "host files": (files.read_host_files, {}),
        "devices": (files.open_devices, {}),
        "settings": (files.write_settings, {"own": OWN_SETTINGS}),
        "other processes": (processes.see_others, {}),
        "signals": (processes.signal_others, {}),
        "environment": (inherited.environment, {}),
        "memory": (inherited.memory, {}),
        "cgroups": (namespaces.write_cgroups, {}),
        "release agent": (namespaces.release_agent, {}),
        "mounts": (hostile.mount_anything, {}),
    }
    for name in ("bpf", "io-uring", "keys", "modules", "kexec", "perf", "file-handles", "swap"):
        probes[name] = (kernel_surface.attempt, {"attempt": name})
    return await _outcomes(arena, probes)


async def _write_lower(arena: Arena) -> Verdict:
    """What the preload wrote must be nowhere in the host's /usr or the template's layers."""
    mark = f"atoll-attack-{os.urandom(6).hex()}"
    verdict = await _outcomes(arena, {"remount": (hostile.make_lower_writable, {"mark": mark})})
    base = await arena.engine.templates.get("base")
    places = [lower for layer in base.layers for lower in layer.lowers]
    found = _take_away([place / mark for place in (*places, Path("/"))])
    detail = f"written on the host: {found}" if found else verdict.detail
    return Verdict(verdict.held and not found, detail, "in the zygote, judged by the host")


def _take_away(paths: list[Path]) -> list[str]:
    """Which of these exist on the host; they are removed."""
    found = [path for path in paths if path.exists()]
    for path in found:
        path.unlink()
    return [str(path) for path in found]


async def _helper(arena: Arena) -> Verdict:
    """A process that the preload left dies with the template's zygote, and touches no sandbox."""
    probes: dict[str, tuple[ProbeFunction, Facts]] = {"helper": (hostile.leave_helper, _FOREVER)}
    before = set(processes_below(os.getpid()))
    verdict = await _outcomes(arena, probes)
    added = set(processes_below(os.getpid())) - before
    # It lives on in the zygote's own namespaces and cgroup; the engine's end must be its own.
    return Verdict(verdict.held, f"{verdict.detail}; {len(added)} processes more", "in the zygote")


_FOREVER: Facts = {"seconds": 600}


async def _starve(arena: Arena) -> Verdict:
    """While the zygote holds all it can take, host and neighbour get what they ask for."""
    facts: Facts = {"processes": 5000, "seconds": 20}
    source = compose_module({"use up": (hostile.use_up, facts)}, arena.facts, fork=False)
    started = time.monotonic()
    async with _preloading(arena, source) as template:
        try:
            with anyio.fail_after(60):
                async with await arena.engine.create(
                    template, limits=fitting(None, arena.unheld)
                ) as sandbox:
                    execution = await sandbox.run_code(_READ, timeout=30)
                    detail = "".join(execution.logs.stdout)[-300:] or str(execution.error)
        except (AtollError, OSError) as error:  # TimeoutError is an OSError too
            detail = f"the template failed: {error!r:.200}"
    inotify = host_inotify(16)
    host = (await anyio.run_process(["/bin/true"], check=False)).returncode == 0
    neighbour = await arena.neighbour.sandbox.commands.run("echo alive")
    took = time.monotonic() - started
    return all_of(
        [
            ("the host", inotify and host, f"inotify {inotify}, fork {host}; {detail}"),
            ("the neighbour", neighbour.stdout == "alive\n", f"answered, {took:.1f} s in all"),
        ]
    )


async def _fill_memory(arena: Arena) -> Verdict:
    """A preload that takes memory without end is ended by its limit: the template's error."""
    source = "kept = []\nwhile True:\n    kept.append(bytearray(16 << 20))\n"
    async with _preloading(arena, source) as template:
        try:
            with anyio.fail_after(90):
                async with await arena.engine.create(
                    template, limits=fitting(None, arena.unheld)
                ) as sandbox:
                    execution = await sandbox.run_code("1")
            detail, held = f"a cell gave {execution}", execution.error is not None
        except AtollError as error:
            detail, held = f"{type(error).__name__}: {str(error)[:200]}", True
        except TimeoutError:
            detail, held = "nothing ended it in 90 s", False
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return Verdict(held, f"{detail}; {free} MiB are free afterwards", "in the zygote")


async def _skip_walls(arena: Arena) -> Verdict:
    """A zygote whose forks skip a step: the host sees it from outside and no cell runs."""
    parts = []
    kinds = {"network": 0x40000000, "mount": 0x20000, "ipc": 0x08000000, "user": 0x10000000}
    cases = [("filter", 0), ("user", 0), *((f"namespaces {name}", k) for name, k in kinds.items())]
    for step, kind in cases:
        source = _SKIP.format(steps=[step.split()[0]], kinds=[kind])
        async with (
            _preloading(arena, source) as template,
            await arena.engine.create(template, limits=fitting(None, arena.unheld)) as sandbox,
        ):
            try:
                execution = await sandbox.run_code(_LOOK)
                ran = execution.error is None
                guest = namespaces_of(sandbox.info.pid)
                seen = json.loads("".join(execution.logs.stdout) or "{}")
                apart = [name for name, inode in guest.items() if seen.get(name) != inode]
                detail = f"the cell ran outside of the sandbox's {apart}, walls {seen.get('walls')}"
            except AtollError as error:
                ran, detail = False, f"{type(error).__name__}: {str(error)[:200]}"
        parts.append((f"skip {step}", not ran, detail))
    return all_of(parts)


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "preload-reaches-out",
        "Can a template's preload reach the host, its loopback, files, processes or settings?",
        SECTION,
        _reach_out,
    ),
    Attack(
        "preload-writes-lower",
        "Can a preload make its read-only layers, which are host files, writable?",
        SECTION,
        _write_lower,
    ),
    Attack(
        "preload-helper",
        "Does a process that a preload left beside the zygote do harm?",
        SECTION,
        _helper,
    ),
    Attack(
        "preload-starves",
        "Can a preload use up pids or inotify instances of the host or a neighbour?",
        SECTION,
        _starve,
    ),
    Attack(
        "preload-memory",
        "Can a preload fill the machine's memory?",
        SECTION,
        _fill_memory,
        launchers=("namespaces",),
        needs=frozenset({"memory"}),
    ),
    Attack(
        "preload-skips-walls",
        "Does a context run whose zygote skipped the filter, the user or a namespace?",
        SECTION,
        _skip_walls,
        launchers=("namespaces",),
    ),
)
