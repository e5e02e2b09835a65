"""What is checked on this machine before Ray starts, and what comes out when its folder fails later."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from labeler.errors import Refused
from labeler.pipeline import local_ray
from labeler.pipeline.local_ray import check_process_limit, check_ray_folder
from tests.ray_heads import ray_folder
from tests.small_disk import small_disk

ROOT = Path(__file__).parent.parent
SOCKET = f"session_2026-01-31_23-59-59_123456_{os.getpid()}/sockets/plasma_store"
MOST_BYTES = 103 if sys.platform == "darwin" else 107


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the repository's packages."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_folder_that_suits_is_made_and_left_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_folder() as folder:
        monkeypatch.setenv("RAY_TMPDIR", str(folder))
        assert check_ray_folder() == folder / "ray"
        assert list((folder / "ray").iterdir()) == []


def test_a_folder_is_too_long_exactly_where_no_socket_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_folder() as folder:
        most = MOST_BYTES - len(f"{folder}//ray/{SOCKET}")
        monkeypatch.setenv("RAY_TMPDIR", str(folder / ("x" * most)))
        path = check_ray_folder() / SOCKET
        path.parent.mkdir(parents=True)
        with closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(str(path))
            with pytest.raises(OSError, match="too long"):
                listening.bind(f"{path}x")
        monkeypatch.setenv("RAY_TMPDIR", str(folder / ("x" * (most + 1))))
        with pytest.raises(Refused, match=r"1 characters too long for the sockets in it; set RAY_TMPDIR"):
            check_ray_folder()


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/tmp/bücher", r"Ray's folder /tmp/b\\xfccher/ray is not an absolute path in plain ASCII"),
        ("here", "is not an absolute path"),
        ("/proc/none", "/proc/none/ray cannot be used: No such file"),
        ("/dev/null", "/dev/null/ray cannot be used: Not a directory"),
    ],
)
def test_a_folder_where_ray_cannot_work_is_refused_by_name(
    folder: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(Refused, match=why) as refused:
        check_ray_folder()
    assert "set RAY_TMPDIR to a folder" in str(refused.value)


def test_a_disk_that_is_nearly_full_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_folder() as folder, small_disk(folder / "d", "50m"):
        monkeypatch.setenv("RAY_TMPDIR", str(folder / "d"))
        with pytest.raises(Refused, match=r"the disk of Ray's folder .*/d/ray is nearly full \(50 MiB are free"):
            check_ray_folder()


def test_a_job_says_so_before_ray_starts() -> None:
    program = (
        "from rich.console import Console; from labeler.errors import Refused; "
        "from labeler.pipeline.connection import connect\n"
        "try: connect(None, Console())\n"
        "except Refused as error: print(error)"
    )
    said = python(program, RAY_TMPDIR="/proc/none").stdout
    assert said.startswith("Ray's folder /proc/none/ray cannot be used: ")
    assert "ray.address" not in said


@pytest.mark.slow
def test_a_disk_that_fills_later_prints_no_traceback_for_each_line_of_rays_logs() -> None:
    program = """
import io, logging, os, ray.data
from rich.console import Console
from labeler.pipeline.connection import connect
connect("local", Console(file=io.StringIO()))
ray.data.range(1).take_all()
files = [h.baseFilename for h in logging.getLogger("ray.data").handlers if hasattr(h, "baseFilename")]
try:
    with open(os.environ["RAY_TMPDIR"] + "/fill", "wb", buffering=0) as file:
        while file.write(bytes(2**20)):
            pass
except OSError as error:
    print(error.strerror)
for _ in range(1000):
    logging.getLogger("ray.data").info("a" * 1000)
print("done")
os._exit(0)
"""
    with ray_folder() as folder, small_disk(folder / "d", "200m"):
        done = python(program, RAY_TMPDIR=str(folder / "d"))
    assert done.stdout.split("\n")[-3:] == ["No space left on device", "done", ""], done.stderr
    assert "Logging error" not in done.stderr
    assert len(done.stderr.splitlines()) < 10, done.stderr


def test_a_start_that_hangs_ends_with_a_line_though_stderr_is_silenced() -> None:
    program = (
        "import time; from labeler.output import silent_stderr; from labeler.pipeline.connection import ended_after\n"
        "with ended_after(60, 'never'): pass\n"
        "with ended_after(0.1, 'labeler: it hangs'), silent_stderr(): time.sleep(3600)"
    )
    done = python(program)
    assert (done.returncode, done.stderr) == (2, "labeler: it hangs\n")


def test_a_user_s_limit_of_processes_is_refused_where_ray_does_not_fit() -> None:
    program = """
import os, resource, sys
from labeler.pipeline.local_ray import check_process_limit
from labeler.errors import Refused
check_process_limit()
if os.geteuid() == 0:
    os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
try: check_process_limit()
except Refused as error: print(error)
"""
    done = python(program)
    assert "more processes and threads can be started here, and Ray needs 300" in done.stdout, done.stderr
    assert "raise the user's limit of 40 (ulimit -u)" in done.stdout


@pytest.mark.parametrize(("line", "group"), [("0::/a/b", ""), ("7:pids:/a/b", "pids")])
def test_a_container_s_limit_of_processes_counts_wherever_it_is_set(tmp_path: Path, line: str, group: str) -> None:
    """Laid out as the kernel does, for control groups of both versions."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"12:memory:/else\n{line}\n")
    inner = tmp_path / "sys/fs/cgroup" / group / "a/b"
    inner.mkdir(parents=True)
    for folder, most in ((inner, "max"), (inner.parent, "1000")):
        (folder / "pids.max").write_text(f"{most}\n")
        (folder / "pids.current").write_text("700\n")
    check_process_limit(tmp_path)
    (inner.parent / "pids.current").write_text(f"{1001 - local_ray.LEAST_FREE_PROCESSES}\n")
    with pytest.raises(Refused, match=r"only 299 more .* the container's limit of 1000 \(pids.max in .*/a\)"):
        check_process_limit(tmp_path)
