"""`atoll run`: a program in a sandbox, as if it ran here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import COMMAND, Atoll, Base


def test_streams_arguments_and_exit_code_pass_through(atoll: Atoll, base: Base) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.stderr.write('e'); sys.exit(3)"
    done = atoll("run", *base, "-c", code, "--", "a", "-b", stdin=b"in")
    assert done.stdout == b"['a', '-b'] in\n"
    assert done.stderr == b"e"
    assert done.returncode == 3


def test_bytes_pass_unchanged_both_ways(atoll: Atoll, base: Base) -> None:
    data = os.urandom(1 << 21)
    done = atoll("run", *base, "--language", "bash", "-c", "cat", stdin=data)
    assert done.stdout == data
    assert done.returncode == 0


def test_a_file_runs_without_its_siblings(atoll: Atoll, base: Base, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    program = tmp_path / "list.py"
    program.write_text("import os; print(sorted(os.listdir('.')), os.getcwd(), __file__)")
    done = atoll("run", *base, str(program))
    assert done.stdout == b"['list.py'] /home/user /home/user/list.py\n"


def test_files_are_copied_in_under_their_names(atoll: Atoll, base: Base, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("1,2")
    code = "print(open('n.csv').read(), open('deep/m.csv').read())"
    done = atoll(
        "run", *base, "-c", code, "--file", "n.csv", "--file", "n.csv:deep/m.csv", cwd=tmp_path
    )
    assert done.stdout == b"1,2 1,2\n", done.stderr


def test_a_mount_is_seen_and_ro_is_read_only(atoll: Atoll, base: Base, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("1,2")
    tmp_path.chmod(0o755)  # rootless, its owner cannot be mapped to the sandbox's user
    code = "print(open('/data/n.csv').read()); open('/data/new', 'w')"
    done = atoll("run", *base, "-c", code, "--mount", f"{tmp_path}:/data:ro")
    assert done.stdout == b"1,2\n", done.stderr
    assert b"OSError" in done.stderr or b"PermissionError" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_program_from_standard_input(atoll: Atoll, base: Base) -> None:
    done = atoll("run", *base, "-", stdin=b"#!/bin/bash\necho shell $1\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"shell\n"


def test_the_environment_is_only_what_was_said(atoll: Atoll, base: Base) -> None:
    code = "import os; print(os.environ.get('ATOLL_DATA_DIR'), os.environ['SAID'])"
    assert atoll("run", *base, "--env", "SAID=yes", "-c", code).stdout == b"None yes\n"


def test_a_timeout_is_124_and_says_so(atoll: Atoll, base: Base) -> None:
    done = atoll("run", *base, "--timeout", "0.3", "--language", "bash", "-c", "sleep 60")
    assert done.returncode == 124
    assert done.stderr == b"atoll: killed: --timeout 0.3 is over\n"


def test_a_signal_is_128_and_its_number(atoll: Atoll, base: Base) -> None:
    done = atoll("run", *base, "--language", "bash", "-c", "kill -TERM $$")
    assert done.returncode == 128 + signal.SIGTERM


def test_a_reader_that_goes_early_ends_the_program(
    base: Base, atoll_environment: dict[str, str]
) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", *base, "--language", "bash", "-c", "yes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=atoll_environment,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"y\n"
        running.stdout.close()
        assert running.wait(20) == 141
        assert running.stderr is not None
        assert running.stderr.read() == b""


def test_json_is_one_result(atoll: Atoll, base: Base) -> None:
    done = atoll("run", *base, "--json", "-c", "print('x'); raise SystemExit(4)")
    result = json.loads(done.stdout)
    assert (result["stdout"], result["exit_code"], done.returncode) == ("x\n", 4, 4)


def test_an_interrupt_reaches_the_program_which_decides(
    atoll: Atoll, base: Base, atoll_environment: dict[str, str]
) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (os.write(1, b'caught\\n'), os._exit(7)))\n"
        "os.write(1, b'ready\\n')\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [*COMMAND, "run", *base, "-c", code], stdout=subprocess.PIPE, env=atoll_environment
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.read() == b"caught\n"
        assert running.wait(20) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.py",), b"there is no file gone.py"),
        ((), b"nothing to run"),
        (("-c", "1", "--template", "nope"), b"there is no template 'nope'"),
        (("-c", "1", "--language", "cobol"), b"'cobol' is not a language"),
        (("-c", "1", "--memory", "-1"), b"size"),
        (("-c", "1", "--user", "nobody-here"), b"nobody-here"),
    ],
)
def test_what_cannot_be_run_is_125_in_one_line(
    atoll: Atoll, base: Base, arguments: tuple[str, ...], said: bytes, tmp_path: Path
) -> None:
    done = atoll("run", *base, *arguments, cwd=tmp_path)
    assert done.returncode == 125, done.stderr
    assert done.stderr.startswith(b"Error: ")
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_nothing_of_a_run_is_left(
    atoll: Atoll, base: Base, atoll_environment: dict[str, str]
) -> None:
    assert atoll("run", *base, "-c", "pass").returncode == 0
    owners = Path(atoll_environment["ATOLL_DATA_DIR"]) / "owners"
    assert list(owners.iterdir()) == []


def test_a_killed_run_is_reaped_by_clean(
    atoll: Atoll, base: Base, atoll_environment: dict[str, str]
) -> None:
    owners = Path(atoll_environment["ATOLL_DATA_DIR"]) / "owners"
    with subprocess.Popen(
        [*COMMAND, "run", *base, "-c", "import time; print(1, flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
        env=atoll_environment,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"1\n"
        refused = atoll("clean", "--yes")
        assert refused.returncode == 1
        assert b"still hold sandboxes" in refused.stderr
        running.kill()
    assert len(list(owners.iterdir())) == 1
    time.sleep(0.2)  # the kernel ends the tree behind its keeper
    assert atoll("clean", "--dead").returncode == 0
    assert list(owners.iterdir()) == []
