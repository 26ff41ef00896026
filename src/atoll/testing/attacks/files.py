"""Attacks on files: the host's, the neighbour's, the template's, and through the file API."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from atoll.model import AtollError, FileError, InvalidArgument
from atoll.testing.attacks.arena import Arena
from atoll.testing.attacks.attempts import BOTH, inside
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import files
from atoll.testing.attacks.probes.kit import tokens_in

SECTION = "files"


async def _through_api(arena: Arena) -> Verdict:
    """Every way to spell a host path; what comes back must not be the host's."""
    parts = []
    host = arena.host.doors["path"]
    await arena.sandbox.commands.run(["ln", "-sfn", host, "/home/user/link"])
    await arena.sandbox.commands.run(["ln", "-sfn", arena.host.directory, "/home/user/directory"])
    for path in _spellings(host):
        for user in BOTH:
            held, detail = await _read_nothing_foreign(arena, path, user)
            parts.append((f"{path[:60]!r} as {user}", held, detail))
    return all_of(parts)


def _spellings(host: str) -> tuple[str, ...]:
    return (
        host,
        "../" * 30 + host.lstrip("/"),
        "/home/user/" + "../" * 30 + host.lstrip("/"),
        "/" + host,
        host.replace("/", "%2f"),
        "/%2e%2e/%2e%2e" + host,
        f"/proc/1/root{host}",
        f"/proc/self/root{host}",
        f"/proc/self/cwd{'/..' * 20}{host}",
        *(f"/proc/self/fd/{number}{host}" for number in range(3, 12)),
        *(f"/proc/1/fd/{number}" for number in range(12)),
        "/proc/1/environ",
        "/proc/1/mem",
        "/proc/self/environ",
        "/home/user/link",
        f"/home/user/directory/{Path(host).name}",
        f"{host}\0.txt",
        "/home/user/" + "a" * 5000,
        "\udcff\udcfe",
        "",
    )


async def _read_nothing_foreign(arena: Arena, path: str, user: str) -> tuple[bool, str]:
    try:
        with anyio.fail_after(10):
            data = await arena.sandbox.files.read(path, format="bytes", user=user)
    except (FileError, InvalidArgument) as error:
        return True, type(error).__name__
    except (AtollError, TimeoutError, ValueError) as error:
        return False, f"not a typed file error: {error!r}"
    found = tokens_in(bytes(data), arena.facts)
    return not found, f"read {len(data)} bytes, tokens {found}"


async def _write_through_api(arena: Arena) -> Verdict:
    """Write, make, move and remove through links to the host: its directory stays as it is."""
    before = _tree(arena.host.directory)
    sandbox_files: Any = arena.sandbox.files
    target = arena.host.directory
    await arena.sandbox.commands.run(["ln", "-sfn", target, "/tmp/out"], user="root")
    await arena.sandbox.commands.run(["ln", "-sfn", "/", "/tmp/top"], user="root")
    parts = []
    attempts: dict[str, Callable[[], Awaitable[Any]]] = {
        "write": lambda: sandbox_files.write("/tmp/out/owned", b"x", user="root"),
        "write to the canary": lambda: sandbox_files.write(
            arena.host.doors["path"], b"x", user="root"
        ),
        "make_dir": lambda: sandbox_files.make_dir(f"{target}/owned", user="root"),
        "move": lambda: sandbox_files.move("/tmp/out", f"{target}/owned", user="root"),
        "remove the link": lambda: sandbox_files.remove("/tmp/out", user="root"),
        "remove the path": lambda: sandbox_files.remove(target, user="root"),
        "remove through /": lambda: sandbox_files.remove(f"/tmp/top{target}", user="root"),
        "list in a circle": lambda: sandbox_files.list("/tmp/top/tmp", depth=50, user="root"),
    }
    for name, attempt in attempts.items():
        with anyio.move_on_after(20):
            try:
                await attempt()
                detail = "done inside"
            except AtollError as error:
                detail = type(error).__name__
        same = _tree(arena.host.directory) == before
        parts.append((name, same, detail if same else "the host's directory changed"))
    return all_of(parts)


def _tree(directory: str) -> dict[str, str]:
    # "events" grows by what the other attacks set off and says so by itself.
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(directory).iterdir()
        if path.is_file() and path.name != "events"
    }


_SPECIAL_FILES = (
    "mkfifo /tmp/fifo; ln -sfn /tmp/fifo /tmp/fifolink; ln -sfn /dev/zero /tmp/zero; "
    "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/tmp/sock\")'"
)


async def _special_files(arena: Arena) -> Verdict:
    """FIFOs, sockets, devices and /proc where a file is expected: a typed error, and no waiting."""
    parts = []
    async with arena.fresh() as sandbox:
        await sandbox.commands.run(_SPECIAL_FILES)
        names = ("/tmp/fifo", "/tmp/fifolink", "/tmp/sock", "/tmp/zero", "/dev/zero", "/dev/tty")
        for path in (*names, "/dev/stdin", "/dev/ptmx", "/tmp", "/proc/kmsg", "/proc/self/mem"):
            parts.append((f"read {path}", *await _typed(sandbox.files.read, path, format="bytes")))
        for path in ("/tmp/fifo", "/tmp/fifolink", "/tmp/sock", "/dev/full", "/proc/self/mem"):
            parts.append((f"write {path}", *await _typed(sandbox.files.write, path, b"x")))
        alive = await sandbox.commands.run("echo alive")
        parts.append(("afterwards", alive.stdout == "alive\n", alive.stdout))
    return all_of(parts)


async def _typed(call: Any, *arguments: Any, **options: Any) -> tuple[bool, str]:
    try:
        with anyio.fail_after(15):
            got = await call(*arguments, **options)
    except (FileError, InvalidArgument) as error:
        return True, type(error).__name__
    except (AtollError, TimeoutError) as error:
        return False, f"not a typed file error: {error!r}"
    size = len(got) if isinstance(got, (bytes, str, bytearray)) else 0
    return size == 0, f"gave {size} bytes"


_SWAP = (
    "cd /tmp; echo mine > mine; "
    "while :; do ln -sfn mine swap; ln -sfn {host} swap; rm -f swap; echo own > swap; done"
)


async def _swap_race(arena: Arena) -> Verdict:
    """Read, write and remove a path that changes all the time between a file and a way out."""
    before = _tree(arena.host.directory)
    seen: dict[str, int] = {}
    async with arena.fresh() as sandbox:
        swapper = await sandbox.commands.start(_SWAP.format(host=arena.host.doors["path"]))
        for round_number in range(60):
            for attempt in (
                lambda: sandbox.files.read("/tmp/swap", format="bytes"),
                lambda: sandbox.files.write("/tmp/swap", b"theirs"),
                lambda: sandbox.files.stat("/tmp/swap"),
                lambda: sandbox.files.remove("/tmp/swap"),
            ):
                try:
                    got: Any = await attempt()
                except AtollError as error:
                    got = type(error).__name__
                if isinstance(got, bytes) and tokens_in(got, arena.facts):
                    return Verdict(False, f"a host byte in round {round_number}", "a race")
                kind = got if isinstance(got, str) else type(got).__name__
                seen[kind] = seen.get(kind, 0) + 1
        await swapper.kill()
    same = _tree(arena.host.directory) == before
    return Verdict(same, f"240 calls: {seen}; host unchanged: {same}", "as user, in a race")


async def _template_writes(arena: Arena) -> Verdict:
    """Root may write over the template's files, but only its own sandbox sees that."""
    paths = _template_files()
    before = {path: _digest(path) for path in paths}
    neighbour = arena.neighbour.sandbox
    summing = ["sha256sum", *paths]
    seen_before = (await neighbour.commands.run(summing)).stdout
    async with arena.fresh() as sandbox:
        outcome = await arena.probe(
            files.write_template, user="root", sandbox=sandbox, paths=paths, mark="owned"
        )
        planting = "echo 'export OWNED=1' > /etc/profile.d/owned.sh; touch /etc/owned"
        await sandbox.commands.run(planting, user="root")
    after = {path: _digest(path) for path in paths}
    seen_after = (await neighbour.commands.run(summing)).stdout
    async with arena.fresh() as sandbox:
        planted = await sandbox.commands.run("echo $OWNED; ls /etc/owned", user="root")
    return all_of(
        [
            ("the host", before == after, f"files unchanged: {before == after}; {outcome.detail}"),
            ("the neighbour", seen_before == seen_after, "sees the same files"),
            ("the next sandbox", planted.stdout.strip() == "", f"sees {planted.stdout!r}"),
        ]
    )


def _template_files() -> list[str]:
    """Files of the host that base shows, and that nobody would miss if the wall were broken."""
    documents = sorted(Path("/usr/share/doc").glob("*/copyright"))
    return [str(path) for path in documents if path.is_file()][:5]


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


async def _leftovers(arena: Arena) -> Verdict:
    """What a killed sandbox wrote is nowhere: not on the host, not in the next sandbox."""
    name = f"atoll-leftover-{os.urandom(8).hex()}"
    async with arena.fresh() as sandbox:
        for place in ("/home/user", "/tmp", "/dev/shm", "/var/tmp", "/opt"):
            await sandbox.commands.run(f"echo secret > {place}/{name}", user="root")
        seen = _find(arena.data_dir, name)
    left = _find(arena.data_dir, name)
    async with arena.fresh() as sandbox:
        outcome = await arena.probe(files.search_tree, sandbox=sandbox, user="root", names=[name])
    return all_of(
        [
            ("the host", not left, f"left {left} (while it lived: {len(seen)})"),
            ("the next sandbox", outcome.blocked, outcome.detail),
        ]
    )


def _find(directory: Path, name: str) -> list[str]:
    return [
        str(Path(root, name))
        for root, directories, names in os.walk(directory)
        if name in names or name in directories
    ]


ATTACKS: tuple[Attack, ...] = (
    inside(
        SECTION,
        "host-files",
        "Can code open files of the host or of a neighbour, through any mount, /proc or ..?",
        files.read_host_files,
        context=True,
    ),
    inside(
        SECTION,
        "search",
        "Does the visible tree hold the host's files, a server's socket, or a usable device?",
        files.search_tree,
    ),
    inside(
        SECTION,
        "host-identity",
        "Does code see the host's accounts, machine id, name or kernel command line?",
        files.read_host_facts,
    ),
    inside(SECTION, "hard-links", "Can code hard-link a foreign file?", files.hard_link_foreign),
    inside(
        SECTION,
        "mount-table",
        "Does the table of mounts name directories of the host?",
        files.mount_table,
    ),
    Attack(
        "api-paths",
        "Does the file API give out a host file for any spelling of a path?",
        SECTION,
        _through_api,
    ),
    Attack(
        "api-writes",
        "Can the file API be led to change a directory of the host?",
        SECTION,
        _write_through_api,
    ),
    Attack(
        "special-files",
        "Can a FIFO, socket, device or /proc file hang or fool the file API?",
        SECTION,
        _special_files,
    ),
    Attack(
        "swap-race",
        "Does a path that changes under the file API lead out of the sandbox?",
        SECTION,
        _swap_race,
    ),
    Attack(
        "template-writes",
        "Do writes to the template's files reach the host, a neighbour or the next sandbox?",
        SECTION,
        _template_writes,
    ),
    Attack("leftovers", "Is anything left of a killed sandbox?", SECTION, _leftovers),
)
