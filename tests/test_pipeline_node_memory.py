from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from control_groups import control_group

from labeler.byte_budget import DECODE_BYTES
from labeler.machine import decode_bytes, memory_in_use
from labeler.pipeline.node_memory import MemoryLimits


def write_node(root: Path, *, available_kb: int, own_pages: int, container_max: str = "max", current: int = 0) -> None:
    """A machine of 1000 kB with process 7, and a container on it that has 90 kB of files in its memory."""
    for folder in ("proc/7", "sys/fs/cgroup"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1000 kB\nMemAvailable: {available_kb} kB\nHugePages_Total: 0\n")
    (root / "proc/7/statm").write_text(f"9999 {own_pages} 1 1 0 1 0\n")
    (root / "sys/fs/cgroup/memory.max").write_text(f"{container_max}\n")
    (root / "sys/fs/cgroup/memory.current").write_text(f"{current}\n")
    (root / "sys/fs/cgroup/memory.stat").write_text("anon 5\ninactive_file 30720\nactive_file 61440\n")


@pytest.fixture(autouse=True)
def _page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 4096)


def test_who_fills_the_machine_has_passed_the_limits_and_its_neighbour_has_not(tmp_path: Path) -> None:
    limits = MemoryLimits(0.92, 0.25, tmp_path)
    write_node(tmp_path, available_kb=70, own_pages=80)
    assert limits.passed_by(7)
    assert not limits.passed_by(8), "there is no such process"
    write_node(tmp_path, available_kb=70, own_pages=60)
    assert not limits.passed_by(7), "others hold it"
    write_node(tmp_path, available_kb=90, own_pages=80)
    assert not limits.passed_by(7), "there is enough"


def test_the_limit_of_a_container_counts_without_the_files_it_has_read(tmp_path: Path) -> None:
    limits = MemoryLimits(0.92, 0.25, tmp_path)
    write_node(tmp_path, available_kb=500, own_pages=80, container_max=str(400 * 1024), current=480 * 1024)
    assert list(memory_in_use(tmp_path)) == [(500 * 1024, 1000 * 1024), (390 * 1024, 400 * 1024)]
    assert limits.passed_by(7)
    write_node(tmp_path, available_kb=500, own_pages=80, container_max=str(400 * 1024), current=390 * 1024)
    assert not limits.passed_by(7)


def write_version_1(group: Path, limit: int, usage: int, cached: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (group / "memory.stat").write_text(f"cache 7\ntotal_inactive_file {cached}\ntotal_active_file 0\n")


def test_limits_of_version_1_count_also_those_of_groups_above(tmp_path: Path) -> None:
    limits = MemoryLimits(0.92, 0.25, tmp_path)
    write_node(tmp_path, available_kb=500, own_pages=80)
    machine = (500 * 1024, 1000 * 1024)
    memory = tmp_path / "sys/fs/cgroup/memory"
    write_version_1(memory, 9223372036854771712, 999, 0)
    assert list(memory_in_use(tmp_path)) == [machine], "that number means no limit"
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("7:cpu,cpuacct:/\n4:memory:/kubepods/pod/box\n0::/\n")
    write_version_1(memory / "kubepods/pod/box", 400 * 1024, 480 * 1024, 90 * 1024)
    write_version_1(memory / "kubepods/pod", 800 * 1024, 500 * 1024, 0)
    assert list(memory_in_use(tmp_path)) == [machine, (390 * 1024, 400 * 1024), (500 * 1024, 800 * 1024)]
    assert limits.passed_by(7)
    write_version_1(memory / "kubepods/pod/box", 400 * 1024, 440 * 1024, 90 * 1024)
    assert not limits.passed_by(7)


def test_decoding_takes_an_eighth_of_a_small_node_and_of_its_container(tmp_path: Path) -> None:
    assert decode_bytes(tmp_path) == DECODE_BYTES, "nothing is known"
    write_node(tmp_path, available_kb=500, own_pages=1)
    assert decode_bytes(tmp_path) == 1000 * 1024 // 8
    write_node(tmp_path, available_kb=500, own_pages=1, container_max=str(400 * 1024))
    assert decode_bytes(tmp_path) == 400 * 1024 // 8


def test_a_real_limit_of_version_1_is_read() -> None:
    code = (
        "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()));"
        "from labeler.machine import memory_in_use; print([total for _, total in memory_in_use()])"
    )
    with control_group("memory", limit_in_bytes=512 << 20) as group:
        argv = [sys.executable, "-c", code, str(group)]
        done = subprocess.run(argv, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert 512 << 20 in ast.literal_eval(done.stdout)


def test_where_nothing_can_be_read_nothing_is_too_much(tmp_path: Path) -> None:
    assert list(memory_in_use(tmp_path)) == []
    assert not MemoryLimits(0.0, 0.0, tmp_path).passed_by(7)


@pytest.mark.parametrize(("setting", "share"), [(None, 0.92), ("0.8", 0.77), ("much", 0.92)])
def test_the_limit_is_below_that_of_ray(setting: str | None, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_memory_usage_threshold", raising=False)
    if setting is not None:
        monkeypatch.setenv("RAY_memory_usage_threshold", setting)
    assert MemoryLimits().node_share == pytest.approx(share)
