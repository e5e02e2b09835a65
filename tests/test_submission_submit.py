"""`labeler submit` against a head node of this machine: complete, refused, stopped, and with its driver killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from labeler.cli import _parse
from labeler.commands import submit as submit_command
from labeler.config import load_config
from labeler.errors import Refused
from labeler.runs import open_run, read_progress, read_snapshot
from labeler.submission.jobs import run_name
from labeler.submission.submit import prepare
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.processes import pids_called_with
from tests.ray_heads import ROOT, head_node
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with head_node() as address:
        yield address


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> Path:
    """In a folder of its own, with its names beside it and nothing else: labeler travels, too."""
    write_tars(tmp_path / "in", shards=2, images=4)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "names.txt").write_text("\n".join(NAMES))
    values = {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "vocabulary": "names.txt",
        "model": {"name": str(checkpoint)},
        "detect": {"score_floor": 0.0, "max_detections": 3},
        "unit": {"max_images": 2},
        "ray": {"gpus_per_worker": 0, "cpus_per_worker": 1},
    }
    path = folder / f"{tmp_path.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command(config: Path, address: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "labeler", "submit", config.name, "--address", address, *words]


def submitted(config: Path, address: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, address, *words),
        cwd=config.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@dataclass(frozen=True)
class Running:
    """The running command; its output is in files."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def printed(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def said(self) -> list[str]:
        return (self.folder / "err").read_text().splitlines()

    def end(self) -> int:
        return self.process.wait(PATIENCE_S)


@contextmanager
def submitting(config: Path, address: str, *words: str) -> Iterator[Running]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = Path(tempfile.mkdtemp(dir=config.parent.parent))
    with (
        (folder / "out").open("wb") as out,
        (folder / "err").open("wb") as err,
        subprocess.Popen(
            command(config, address, *words), cwd=config.parent, env=environment, stdout=out, stderr=err
        ) as process,
    ):
        try:
            yield Running(process, folder)
        finally:
            process.kill()


def drivers(config: Path) -> list[int]:
    return pids_called_with(f"-m\0labeler\0label\0{config.name}")


def committed(output: Path) -> int:
    run = open_run(str(output))
    return read_progress(run).committed_units if run is not None else 0


def statuses(address: str, output: Path) -> Sequence[str]:
    """Of the jobs of a run, in their order."""
    name = run_name(str(output))
    jobs = [job for job in JobSubmissionClient(address).list_jobs() if str(job.submission_id).startswith(name)]
    return [str(job.status) for job in sorted(jobs, key=lambda job: str(job.submission_id))]


@pytest.mark.slow
def test_a_driver_that_is_killed_is_submitted_again_and_the_run_completes(
    address: str, config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with submitting(config, address, "unit.max_images=1") as running:
        wait_until(lambda: committed(output) >= 1 or running.process.poll() is not None)
        (driver,) = drivers(config)
        os.kill(driver, signal.SIGKILL)
        code = running.end()
    assert code == 0, running.printed + "\n".join(running.said)
    name, lines = run_name(str(output)), running.said
    assert lines[0].startswith(f"submitted job {name}-1 (1 of at most 3) to {address}: ")
    assert lines[1] == f"job {name}-1 ended: FAILED (signal 9)"
    assert lines[2].startswith(f"submitted job {name}-2 (2 of at most 3) to {address}: ")
    assert running.printed.count("Running entrypoint for job") == 2
    assert "complete: 8 images in 2 shards" in running.printed
    run = open_run(str(output))
    assert run is not None
    assert read_snapshot(run).is_complete
    rows = [(row["shard_id"], row["index"]) for table in read_snapshot(run).tables() for row in table.to_pylist()]
    assert sorted(rows) == [(f"{shard:06d}", index) for shard in range(2) for index in range(4)]
    assert statuses(address, output) == ["FAILED", "SUCCEEDED"]


@pytest.mark.slow
def test_a_job_is_taken_up_again_left_alone_and_stopped(address: str, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for_gpu = ("unit.max_images=1", "ray.gpus_per_worker=1")  # the cluster has no GPU, so the job waits
    first = submitted(config, address, "--no-wait", *for_gpu)
    assert first.returncode == 0, first.stderr
    with submitting(config, address, *for_gpu) as follower:
        wait_until(lambda: "waiting until" in follower.printed)
        follower.process.send_signal(signal.SIGINT)
        assert follower.end() == 1
    name = f"{run_name(str(output))}-1"
    assert follower.said[0].startswith(f"job {name} works on this run already")
    assert follower.said[1].startswith(f"labeler: job {name} continues without this command")
    assert statuses(address, output) == ["RUNNING"]
    with submitting(config, address, *for_gpu) as follower:
        wait_until(lambda: "waiting until" in follower.printed)
        stopped = submitted(config, address, "--stop")
        assert follower.end() == 1
    assert (stopped.returncode, stopped.stderr) == (0, f"stopped {name}\n")
    assert "stopped by SIGTERM" in follower.printed  # the driver had the time for its line
    assert follower.said[-1] == f"labeler: job {name} was stopped; run the same command again to continue"
    assert statuses(address, output) == ["STOPPED"]
    again = submitted(config, address, "--stop")
    assert (again.returncode, again.stderr) == (0, f"no job of {output} runs at {address}\n")


@pytest.mark.slow
def test_a_refused_job_is_exit_code_2_and_not_submitted_again(address: str, config: Path, tmp_path: Path) -> None:
    done = submitted(config, address, f"input={tmp_path}/nothing")
    assert done.returncode == 2
    assert f"labeler: {tmp_path}/nothing does not exist on this machine" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last == f"labeler: job {run_name(str(tmp_path / 'out'))}-1 was refused, for the reason above"
    assert statuses(address, tmp_path / "out") == ["FAILED"]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_job_that_ends_incomplete_is_submitted_no_more_often_than_asked(
    address: str, config: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(config.read_text())
    values["model"]["family"] = "dying"
    config.write_text(yaml.safe_dump(values))
    (config.parent / "dying.py").write_text("import os\nos._exit(1)\n")
    done = submitted(config, address, "--attempts", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    name = run_name(str(tmp_path / "out"))
    assert done.stderr.splitlines()[-1] == (
        f"labeler: job {name}-2 ended: FAILED (exit code 1); after 2 attempts the run is not complete: run the same "
        "command again to continue"
    )
    assert statuses(address, tmp_path / "out") == ["FAILED", "FAILED"]


def test_the_words_of_the_job_are_those_of_label_quoted(config: Path) -> None:
    submission = prepare(
        load_config(config, ["vocabulary=[a cat, dog]"]), config, config.parent, ["vocabulary=[a cat, dog]", "--extend"]
    )
    assert submission.entrypoint == f"exec python -m labeler label {config.name} 'vocabulary=[a cat, dog]' --extend"


@pytest.mark.parametrize(
    ("words", "attempts", "handed_on"),
    [
        ([], 3, []),
        (["--attempts", "5"], 5, []),
        (["--no-wait", "--attempts", "5"], 1, []),
        (["--stop-after-hours", "2"], 1, ["--stop-after-hours", "2.0"]),
        (["--max-cost", "9", "--price-per-hour", "3"], 1, ["--price-per-hour", "3.0", "--max-cost", "9.0"]),
        (["--max-cost", "9", "--attempts", "2", "--extend"], 2, ["--extend", "--max-cost", "9.0"]),
        (["--log-format", "json"], 3, ["--log-format", "json"]),
    ],
)
def test_a_limited_job_is_not_submitted_again_unless_asked_for(
    words: list[str], attempts: int, handed_on: list[str]
) -> None:
    """The limit ends it incomplete, and another job would spend as much again."""
    arguments = _parse(["submit", "c.yaml", *words])
    assert submit_command._attempts(arguments) == attempts
    assert submit_command._options_of_label(arguments) == handed_on


@pytest.mark.parametrize("other", ["head:6379", "local"])
def test_a_config_that_names_another_cluster_is_refused(config: Path, other: str) -> None:
    with pytest.raises(Refused, match=f"ray.address={other} names a cluster of its own"):
        prepare(load_config(config, [f"ray.address={other}"]), config, config.parent, [])
    prepare(load_config(config, ["ray.address=auto"]), config, config.parent, [])
