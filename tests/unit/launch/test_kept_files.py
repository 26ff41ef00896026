"""Files of a cgroup that are kept open between samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_cgroups import fill

from atoll.launch.linux.cgroups_tree import Tree
from atoll.launch.linux.cgroups_usage import CgroupUsage, Gauge, read_usage
from atoll.launch.linux.kept_files import DescriptorBudget, KeptFiles


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    fill(tmp_path / "box")
    return Tree(tmp_path)


def test_a_kept_file_says_what_it_says_now(tree: Tree) -> None:
    kept = KeptFiles("box", DescriptorBudget(10))
    assert kept.read(tree, "memory.current") == b"4096"
    (tree.path / "box/memory.current").write_text("5")
    assert kept.read(tree, "memory.current") == b"5"
    kept.close()


def test_no_more_descriptors_are_kept_than_the_budget_has(tree: Tree) -> None:
    budget = DescriptorBudget(2)
    kept, other = KeptFiles("box", budget), KeptFiles("box", budget)
    before = open_descriptors()
    for _ in range(3):
        for file in ("memory.current", "memory.peak", "pids.current"):
            assert kept.read(tree, file)
            assert other.read(tree, file)
    assert open_descriptors() == before + 2
    for closing in (kept, kept, other):
        closing.close()
    assert open_descriptors() == before
    assert kept.read(tree, "cpu.stat")
    assert open_descriptors() == before + 1
    kept.close()
    assert open_descriptors() == before


def test_a_file_that_the_kernel_lacks_is_none_and_a_lost_cgroup_is_an_error(tree: Tree) -> None:
    kept = KeptFiles("box", DescriptorBudget(2))
    assert kept.read(tree, "memory.swap.peak") is None
    assert kept.read(tree, "memory.swap.peak") is None
    shutil.rmtree(tree.path / "box")
    with pytest.raises(FileNotFoundError):
        kept.read(tree, "memory.current")


def test_each_file_is_read_once_for_all_of_its_numbers() -> None:
    files = {"cpu.stat": b"usage_usec 1500000\nnr_throttled 4\n", "memory.stat": None}
    asked: list[str] = []

    def read(_: str, file: str) -> bytes | None:
        asked.append(file)
        return files[file]

    gauges = {
        "cpu_time": Gauge("", "cpu.stat", b"usage_usec", 1e6),
        "throttled_periods": Gauge("cpu", "cpu.stat", b"nr_throttled"),
        "throttled_time": Gauge("cpu", "cpu.stat", b"throttled_usec", 1e6),
        "memory_cache": Gauge("memory", "memory.stat", b"file"),
    }
    assert read_usage(gauges, read) == CgroupUsage(cpu_time=1.5, throttled_periods=4)
    assert asked == ["cpu.stat", "memory.stat"]
