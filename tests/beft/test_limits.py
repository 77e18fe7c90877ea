"""A container's CPU quota and memory limit count: cgroup v2 and v1, of the own group and of those above it."""

import os
from pathlib import Path

import psutil
import pytest

import beft.limits
from beft.limits import free_memory, usable_cores

HOST_CORES = 64
GB = 2**30


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of many cores, whose ``proc`` and ``sys`` are below this folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(HOST_CORES)))
    monkeypatch.setattr(beft.limits, "_ROOT", tmp_path)
    return tmp_path


def system(root: Path, groups: str, mounts: list[str], files: dict[str, str]) -> None:
    """A ``proc`` and a ``sys`` that say what a container's own say."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    lines = [f"{30 + number} 23 0:28 {mount}\n" for number, mount in enumerate(mounts)]
    (root / "proc/self/mountinfo").write_text("".join(lines), errors="surrogateescape")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def version_2(root: Path, files: dict[str, str], group: str = "/", shown: str = "/") -> None:
    system(root, f"0::{group}\n", [f"{shown} /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate"], files)


def version_1(root: Path, files: dict[str, str], group: str, shown: str) -> None:
    mounts = [
        f"{shown} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct",
        f"{shown} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
        "/ /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw",
    ]
    system(root, f"5:memory:{group}\n4:cpu,cpuacct:{group}\n0::/\n", mounts, files)


class TestCores:
    @pytest.mark.parametrize(
        ("quota", "cores"),
        [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", HOST_CORES)],
    )
    def test_a_quota_of_version_2(self, root: Path, quota: str, cores: int) -> None:
        version_2(root, {"cpu.max": quota})
        assert usable_cores() == cores

    def test_no_quota(self, root: Path) -> None:
        version_2(root, {"cpu.max": "max 100000"})
        assert usable_cores() == HOST_CORES

    def test_a_quota_of_a_group_above(self, root: Path) -> None:
        files = {"pod/cpu.max": "300000 100000", "pod/one/cpu.max": "max 100000"}
        version_2(root, files, group="/pod/one")
        assert usable_cores() == 3

    @pytest.mark.parametrize("shown", ["/", "/docker/1f"])  # the host's whole tree is mounted, or the container's part
    def test_a_quota_of_version_1(self, root: Path, shown: str) -> None:
        inside = "docker/1f/" if shown == "/" else ""
        files = {f"cpu,cpuacct/{inside}cpu.cfs_{name}_us": number for name, number in QUOTA_OF_4.items()}
        version_1(root, files, "/docker/1f", shown)
        assert usable_cores() == 4

    def test_no_quota_of_version_1(self, root: Path) -> None:
        files = {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
        version_1(root, files, "/", "/")
        assert usable_cores() == HOST_CORES

    def test_a_group_that_cannot_be_seen_from_the_container(self, root: Path) -> None:
        version_2(root, {"cpu.max": "200000 100000"}, group="/../other", shown="/")
        assert usable_cores() == 2

    @pytest.mark.parametrize("other", ["/media/caf\udce9", "/media/two\u2028lines", "/media/a\x85b"])
    def test_other_mounts_of_any_name(self, root: Path, other: str) -> None:
        mounts = [f"/ {other} rw - ext4 /dev/sda rw", "/ /sys/fs/cgroup ro - cgroup2 cgroup rw"]
        system(root, "0::/\n", mounts, {"cpu.max": "200000 100000"})
        assert usable_cores() == 2

    def test_a_blank_in_the_path(self, root: Path) -> None:
        mounts = [r"/ /sys/fs/cgroup/my\040groups ro - cgroup2 cgroup rw"]
        system(root, "0::/one pod\n", mounts, {"my groups/one pod/cpu.max": "200000 100000"})
        assert usable_cores() == 2

    def test_without_control_groups(self, root: Path) -> None:
        assert usable_cores() == HOST_CORES


QUOTA_OF_4 = {"quota": "400000", "period": "100000"}


class TestMemory:
    def test_below_the_limit_of_version_2(self, root: Path) -> None:
        files = {
            "memory.max": str(GB // 4),
            "memory.current": str(GB // 8),
            "memory.stat": f"anon 5\ninactive_file {GB // 16}",
        }
        version_2(root, files)
        assert free_memory() == GB // 4 - GB // 8 + GB // 16

    def test_below_the_limit_of_version_1(self, root: Path) -> None:
        files = {
            "memory/memory.limit_in_bytes": str(GB // 4),
            "memory/memory.usage_in_bytes": str(GB // 8),
            "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB // 16}",
        }
        version_1(root, files, "/docker/1f", "/docker/1f")
        assert free_memory() == GB // 4 - GB // 8 + GB // 16

    def test_without_a_limit_it_is_the_machine_s(self, root: Path) -> None:
        version_2(root, {"memory.max": "max", "memory.current": "1"})
        assert free_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)

    def test_more_is_used_than_the_limit(self, root: Path) -> None:
        version_2(root, {"memory.max": "5", "memory.current": "9"})
        assert free_memory() == 0
