"""How many CPUs a process may use: by affinity, and by the quotas of control groups of both versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from control_groups import control_group

from labeler import machine
from labeler.machine import available_cpus, worker_threads

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(16)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


V1 = "sys/fs/cgroup/cpu"
CASES: dict[str, tuple[dict[str, str], float]] = {
    "nothing": ({}, 16),
    "v2, no limit": ({"sys/fs/cgroup/cpu.max": "max 100000"}, 16),
    "v2": ({"sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
    "v2, the group above is tighter": (
        {"proc/self/cgroup": "0::/slice/job", "sys/fs/cgroup/slice/job/cpu.max": "400000 100000",
         "sys/fs/cgroup/slice/cpu.max": "200000 100000"}, 2),
    "v2, a host's path that the container does not see": (
        {"proc/self/cgroup": "0::/../../kubepods/pod1", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
    "v1, no limit": ({f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, 16),
    "v1": ({f"{V1}/cpu.cfs_quota_us": "150000", f"{V1}/cpu.cfs_period_us": "100000"}, 1.5),
    "v1, nested": (
        {"proc/self/cgroup": "4:cpu,cpuacct:/docker/ab\n0::/", f"{V1}/docker/ab/cpu.cfs_quota_us": "50000",
         f"{V1}/docker/ab/cpu.cfs_period_us": "100000", f"{V1}/cpu.cfs_quota_us": "-1"}, 0.5),
    "v1, the path of the host": (
        {"proc/self/cgroup": "4:cpu,cpuacct:/docker/ab", f"{V1}/cpu.cfs_quota_us": "400000",
         f"{V1}/cpu.cfs_period_us": "100000"}, 4),
    "not readable": ({"sys/fs/cgroup/cpu.max": "?", "proc/self/cgroup": "?"}, 16),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_quotas_of_control_groups_count(case: str, tmp_path: Path) -> None:
    files, expected = CASES[case]
    assert available_cpus(write(tmp_path, files)) == expected


def test_a_worker_gets_all_but_one_or_what_the_config_says(tmp_path: Path) -> None:
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "450000 100000"})
    assert [worker_threads(asked, tmp_path) for asked in (None, 0.5, 2, 8)] == [3, 1, 2, 4]
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "50000 100000"})
    assert worker_threads(None, tmp_path) == 1


def run(code: str, *before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from labeler.machine import available_cpus; print(available_cpus())"
    )
    assert float(run(code)) <= 1


def test_a_real_quota_counts() -> None:
    with control_group("cpu", cfs_period_us=100_000, cfs_quota_us=40_000) as group:
        code = (
            f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()));"
            "from labeler.machine import available_cpus; print(available_cpus())"
        )
        assert run(code) == "0.4"
