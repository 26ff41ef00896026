"""What `doctor` says of machines that lack something, and that each finding has its fix."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fake_machine import MOUNTS, REFUSED, machine

from atoll.launch.linux import doctor, doctor_apparmor, seccomp_library
from atoll.launch.linux.cgroups_detect import Layout
from atoll.launch.linux.doctor_machine import Check, Machine
from atoll.launch.linux.walls_situation import Column

CONTAINER_MOUNTS = MOUNTS + (
    "40 23 0:50 / /proc/kcore rw - tmpfs tmpfs rw\n"
    "41 23 0:51 / /proc/timer_list rw - tmpfs tmpfs rw\n"
    "42 23 0:52 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n"
)
MASKED = {"proc in it": f"mount proc: {REFUSED}"}
NO_MOUNTS = {"mount in it": REFUSED, "overlay in it": REFUSED, "proc in it": REFUSED}


def finding(here: Machine, name: str) -> Check:
    return next(check for check in doctor.checks(here) if check.name == name)


def test_a_machine_with_everything_has_nothing_to_mend(tmp_path: Path) -> None:
    findings = doctor.checks(machine(tmp_path))
    assert [check for check in findings if check.verdict != "ok"] == []
    assert all(check.fix == "" for check in findings)
    assert doctor.works(findings)


def test_every_failure_and_warning_has_a_fix(tmp_path: Path) -> None:
    here = machine(
        tmp_path,
        probes=dict.fromkeys(("user namespace", *NO_MOUNTS, "seccomp", "NAT in it"), REFUSED),
        sub_ids=False,
        open_files=1024,
        sysctls={"kernel/osrelease": "5.4.0", "user/max_net_namespaces": "10"},
        data_dir=Path("/srv/data"),
        mounts=MOUNTS + "50 22 0:60 / /srv rw - nfs4 server:/ rw\n",
    )
    broken = [check for check in doctor.checks(here) if check.verdict != "ok"]
    assert len(broken) >= 10
    assert all(check.fix for check in broken)


# Ubuntu 24.04

UBUNTU = {"kernel/apparmor_restrict_unprivileged_userns": "1"}


def test_ubuntu_shows_the_one_command_for_its_own_interpreter(tmp_path: Path) -> None:
    here = machine(tmp_path, sysctls=UBUNTU, probes=NO_MOUNTS)
    found = finding(here, "AppArmor")
    assert found.verdict == "fail"
    assert 'profile atoll "/home/ada/atoll/.venv/bin/python3.12" flags=(unconfined)' in found.fix
    assert "sudo apparmor_parser -r /etc/apparmor.d/atoll" in found.fix


def test_ubuntu_with_the_profile_installed_is_fine(tmp_path: Path) -> None:
    found = finding(machine(tmp_path, sysctls=UBUNTU), "AppArmor")
    assert found.verdict == "ok"


def test_ubuntu_never_frees_the_systems_interpreter(tmp_path: Path) -> None:
    (tmp_path / "venv/bin").mkdir(parents=True)
    here = machine(
        tmp_path,
        sysctls=UBUNTU,
        probes=NO_MOUNTS,
        executable=Path("/usr/bin/python3.12"),
        prefix=tmp_path / "venv",
    )
    found = finding(here, "AppArmor")
    assert found.verdict == "fail"
    assert "venv --copies" in found.fix
    assert "/usr/bin/python3.12" not in found.fix
    (tmp_path / "venv/bin/atoll").touch()
    assert f'profile atoll "{tmp_path}/venv/bin/atoll"' in finding(here, "AppArmor").fix


def test_ubuntu_does_not_restrict_root(tmp_path: Path) -> None:
    here = machine(tmp_path, sysctls=UBUNTU, is_root=True)
    assert finding(here, "AppArmor").verdict == "ok"


@pytest.mark.parametrize("name", ["python3.12", "odd [name]*", "50% done", "it's", "a\\b"])
def test_the_command_writes_the_profile(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    command = doctor_apparmor.install_command(program)
    assert "\n" not in command
    write = command.partition(" | sudo")[0]
    written = subprocess.run(["sh", "-c", write], capture_output=True, text=True, check=True).stdout
    assert written == doctor_apparmor.profile(program)


def test_the_profile_parses_where_apparmor_is(tmp_path: Path) -> None:
    parser = shutil.which("apparmor_parser")
    if parser is None or not Path("/etc/apparmor.d/abi/4.0").exists():
        pytest.skip("no apparmor_parser with ABI 4.0 here")
    text = doctor_apparmor.profile(tmp_path / "python")
    done = subprocess.run([parser, "-Q", "-K"], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


# User namespaces


def test_namespaces_turned_off(tmp_path: Path) -> None:
    found = finding(machine(tmp_path, sysctls={"user/max_user_namespaces": "0"}), "user namespaces")
    assert found.verdict == "fail"
    assert "user.max_user_namespaces=28633 | sudo tee" in found.fix


def test_debians_switch(tmp_path: Path) -> None:
    off = {"kernel/unprivileged_userns_clone": "0"}
    found = finding(machine(tmp_path / "a", sysctls=off), "user namespaces")
    assert found.verdict == "fail"
    assert "kernel.unprivileged_userns_clone=1" in found.fix
    assert (
        finding(machine(tmp_path / "b", sysctls=off, is_root=True), "user namespaces").verdict
        == "ok"
    )


# Containers


@pytest.mark.parametrize(
    ("marker", "kind", "flag"),
    [
        (".dockerenv", "Docker", "--security-opt systempaths=unconfined"),
        ("run/.containerenv", "Podman", "--security-opt unmask=ALL"),
    ],
)
def test_a_container_without_privileges(tmp_path: Path, marker: str, kind: str, flag: str) -> None:
    here = machine(tmp_path, files={marker: ""}, mounts=CONTAINER_MOUNTS, probes=NO_MOUNTS)
    found = finding(here, "place")
    assert found.verdict == "fail"
    assert kind in found.seen
    assert flag in found.fix
    assert "ATOLL_DATA_DIR" in found.fix


def test_kubernetes_is_told_its_own_words(tmp_path: Path) -> None:
    here = machine(tmp_path, probes=NO_MOUNTS, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert "procMount: Unmasked" in finding(here, "place").fix


def test_masked_proc_is_named(tmp_path: Path) -> None:
    here = machine(tmp_path, mounts=CONTAINER_MOUNTS, probes=MASKED)
    found = finding(here, "/proc")
    assert found.verdict == "fail"
    assert "/proc/kcore, /proc/timer_list" in found.seen
    assert "binfmt_misc" not in found.seen
    assert "systempaths=unconfined" in found.fix


def test_a_container_that_lets_everything_through_is_fine(tmp_path: Path) -> None:
    here = machine(tmp_path, files={".dockerenv": ""})
    assert finding(here, "place").verdict == "ok"


def test_root_of_a_container_without_sys_resource(tmp_path: Path) -> None:
    status = {"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a82425fb\n"}
    found = finding(machine(tmp_path, files=status, is_root=True), "capabilities")
    assert found.verdict == "warn"
    assert "--cap-add SYS_RESOURCE" in found.fix


# WSL


def test_wsl2_works_on_its_own_disk(tmp_path: Path) -> None:
    release = {"kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2"}
    here = machine(tmp_path, sysctls=release, data_dir=Path("/home/ada/.local/share/atoll"))
    assert finding(here, "place") == Check("place", "ok", "WSL2")
    windows = replace(here, data_dir=Path("/mnt/c/Users/ada/atoll"))
    found = finding(windows, "place")
    assert found.verdict == "fail"
    assert "ATOLL_DATA_DIR" in found.fix


def test_wsl1_has_no_kernel(tmp_path: Path) -> None:
    here = machine(tmp_path, sysctls={"kernel/osrelease": "4.4.0-19041-Microsoft"})
    found = finding(here, "place")
    assert found.verdict == "fail"
    assert "wsl --set-version" in found.fix


# Accounts and limits


def test_no_sub_ids(tmp_path: Path) -> None:
    found = finding(machine(tmp_path, sub_ids=False), "sub-ids")
    assert found.verdict == "fail"
    assert "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada" in found.fix


def test_limits_that_cannot_be_held_are_warnings(tmp_path: Path) -> None:
    reason = dict.fromkeys(("memory", "cpu", "pids"), "the cgroup is not delegated")
    here = machine(tmp_path)
    bare = replace(
        here.situation,
        column=Column.ROOTLESS,
        holds=frozenset(),
        reason=reason,
        counts_cpu_time=False,
    )
    here = replace(here, situation=bare, layout=Layout(0, reason=reason))
    assert finding(here, "cgroups").verdict == "warn"
    for limit in ("memory", "cpu", "cpu_time"):
        found = finding(here, f"limit {limit}")
        assert found.verdict == "warn"
        assert f"{limit}=None" in found.fix
    assert "substitute: RLIMIT_NPROC" in finding(here, "limit pids").seen
    assert doctor.works(doctor.checks(here))


def test_low_ceilings_name_sysctl_and_command(tmp_path: Path) -> None:
    low = {"fs/inotify/max_user_instances": "8", "kernel/pid_max": "4096"}
    seen = [c for c in doctor.checks(machine(tmp_path, sysctls=low)) if c.name == "ceilings"]
    assert [check.verdict for check in seen] == ["warn", "warn"]
    assert "fs.inotify.max_user_instances=128 | sudo tee -a" in seen[0].fix


def test_few_descriptors(tmp_path: Path) -> None:
    assert "ulimit -Hn 65536" in finding(machine(tmp_path, open_files=4096), "open files").fix


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("nfs4", "fail"), ("fuse.sshfs", "fail"), ("overlay", "warn"), ("xfs", "ok")],
)
def test_the_file_system_of_the_data(tmp_path: Path, kind: str, verdict: str) -> None:
    mounts = MOUNTS + f"50 22 0:60 / /srv/data rw - {kind} source rw\n"
    here = machine(tmp_path, mounts=mounts, data_dir=Path("/srv/data/atoll"))
    found = finding(here, "data directory")
    assert found.verdict == verdict
    assert kind in found.seen


# Kernels


def test_an_old_kernel_as_root_lacks_idmapped_lowers(tmp_path: Path) -> None:
    here = machine(
        tmp_path,
        sysctls={"kernel/osrelease": "5.15.0-91-generic"},
        probes={"idmapped lower": "Invalid argument (EINVAL)", "user attributes on tmpfs": "no"},
        is_root=True,
    )
    assert finding(here, "kernel").verdict == "ok"
    found = finding(here, "idmapped lower")
    assert found.verdict == "fail"
    assert "linux-generic-hwe-22.04" in found.fix
    assert finding(here, "tmpfs attributes").verdict == "warn"


def test_other_processors_and_systems(tmp_path: Path) -> None:
    assert finding(machine(tmp_path / "a", machine="riscv64"), "kernel").verdict == "fail"
    found = finding(machine(tmp_path / "b", sysctls={"kernel/osrelease": ""}), "kernel")
    assert "seatbelt" in found.fix


def test_a_missing_libseccomp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_library, "SONAME", "libseccomp-missing.so.2")
    found = finding(machine(tmp_path), "seccomp")
    assert found.verdict == "fail"
    assert "apt-get install libseccomp2" in found.fix


# The report


def test_the_report_holds_no_secret(tmp_path: Path) -> None:
    environment = {
        "HOME": "/home/ada",
        "USER": "ada",
        "ATOLL_DATA_DIR": "/home/ada/secret-project",
        "ATOLL_TOKEN": "hunter2",
        "AWS_SECRET_ACCESS_KEY": "hunter3",
    }
    here = machine(
        tmp_path,
        sysctls=UBUNTU,
        probes=NO_MOUNTS,
        sub_ids=False,
        environment=environment,
        data_dir=Path("/home/ada/secret-project"),
    )
    text = json.dumps(doctor.report(here))
    for secret in ("hunter2", "hunter3", "AWS_", "secret-project", "/home/ada"):
        assert secret not in text, secret
    assert " ada" not in text
    report = doctor.report(here)
    assert report["environment"] == ["ATOLL_DATA_DIR", "ATOLL_TOKEN"]
    assert report["works"] is False
    assert report["system"] == "Ubuntu 24.04.1 LTS"
    assert set(report["walls"]) >= {"own root", "memory", "output"}


def test_this_machine_can_be_looked_at() -> None:
    findings = doctor.checks(Machine.here(Path("/var/lib/atoll")))
    assert {check.name for check in findings} >= {"kernel", "place", "seccomp", "cgroups"}
    assert all(check.fix for check in findings if check.verdict != "ok")
    json.dumps(doctor.report())
