"""What a job says: its steps before the first image, this job's counts beside the run's, JSON, Ray's failures."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from labeler.cli import main
from labeler.config import make_config
from labeler.errors import Incomplete
from labeler.pipeline.blocks import Receipt
from labeler.pipeline.display import Display
from labeler.pipeline.label import label
from labeler.pipeline.ray_news import RayNews, reason_of
from labeler.pipeline.startup import Startup
from labeler.terminal import JsonConsole, json_log, message_console, safe_output
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes
from tests.stub_detector import MakeStub, NoModel
from tests.waiting import PATIENCE_S, wait_until

TRACEBACK = """Task MapWorker(MapBatches(LabelUnits)).get_location failed. There are infinite retries remaining, so \
the task will be retried. Error: Traceback (most recent call last):

  File "x.py", line 17, in __call__
    raise RuntimeError("no model here")

RuntimeError: no model here 0x7f31
"""
DIED = (
    "A worker died or was killed while executing a task by an unexpected system error. RayTask ID: ab12 Worker ID: cd "
    "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. End "
    "of file. There are some potential root causes. (1) The process is killed by SIGKILL by OOM killer."
)


def plain() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=400), file


def config_of(tmp_path: Path, checkpoint: Path, *overrides: str) -> Any:
    (tmp_path / "in").mkdir()
    members = {f"{i}.png": image_bytes(i, width=77 if i == 5 else 40) for i in range(8)}
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes(members))
    values = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "vocabulary": NAMES}
    values |= {"model": {"name": str(checkpoint)}, "unit": {"max_images": 4}}
    return make_config(values, ["ray.cpus_per_worker=1", *overrides])


def lines_of(file: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_job_says_each_step_before_its_first_image_and_logs_json_with_run_shard_and_unit(
    tmp_path: Path, checkpoint: Path
) -> None:
    file = io.StringIO()
    config = config_of(tmp_path, checkpoint)
    outcome = label(config, make_detector=MakeStub(raise_on_width=77), console=JsonConsole(file=file, width=40))
    lines = lines_of(file)
    assert [line["step"] for line in lines if "step" in line][-1] == "loading the model"
    (first,) = [line for line in lines if "startup_s" in line]
    assert list(first["startup_s"]) == [
        "checking the configuration and the model",
        "listing the input",
        "joining the Ray cluster",
        "checking the cluster and the storage",
        "loading the model",
    ]
    assert first["message"].startswith("first unit after ")
    run_id = outcome.run.manifest.run_id
    begun = next(i for i, line in enumerate(lines) if line["message"].startswith("run "))
    assert all(line["run"] == run_id for line in lines[begun:])
    (failed,) = [line for line in lines if "unit" in line]
    assert (failed["level"], failed["shard"], failed["unit"]) == ("warning", "000000", 1)
    assert "no such kernel" in failed["message"]
    last = [line for line in lines if "job_images" in line][-1]
    assert (last["images"], last["images_total"], last["job_images"]) == (8, 8, 8)
    assert last["job_statuses"] == outcome.report.statuses == {"labeled": 7, "detect_error": 1}


def test_one_line_has_the_runs_images_and_this_jobs_apart() -> None:
    console, _ = plain()
    shown = Display(done=100, images_per_shard={"a": 300}, console=console)
    shown.receive(Receipt("unit", "a", 3, counts={"labeled": 3, "empty": 1}, detections=9))
    run, job = shown.line().split(" · ")
    assert run.startswith("run: images 104/300, ")
    assert run.endswith(" left")
    assert job.startswith("this job: images 4, ")
    assert job.endswith(" images/s, labeled 3, empty 1, detections 9")


def test_a_step_is_said_once_it_takes_long_and_one_that_ended_or_was_refused_is_not() -> None:
    console, file = plain()
    with Startup(console, after_s=0.0) as startup:
        startup.step("listing the input")
        wait_until(lambda: "listing the input ...\n" in file.getvalue())
    with Startup(console, after_s=300) as startup:
        startup.step("checking the model")
        startup.step("listing more")
        startup.step("starting Ray", now=True)
        startup.step("refused")
    wait_until(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))
    assert file.getvalue() == "listing the input ...\nstarting Ray ...\n"


def test_a_step_that_goes_on_is_printed_again_with_its_seconds() -> None:
    console, file = plain()
    with Startup(console, after_s=0.0, again_s=0.05) as startup:
        startup.step("loading the model")
        wait_until(lambda: file.getvalue().count("loading the model: 0 s so far\n") > 1)
    assert file.getvalue().startswith("loading the model ...\nloading the model: 0 s so far\n")


@pytest.mark.parametrize(
    ("options", "first"),
    [([], "loading Python packages ...\n"), (["--log-format", "json"], '"step": "loading Python packages"}\n')],
)
def test_a_command_says_what_it_does_while_it_waits_for_its_config(options: list[str], first: str) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "labeler", "label", f"/dev/fd/{reader}", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=[reader]) as process:
        assert process.stderr is not None
        late = threading.Timer(PATIENCE_S, process.kill)
        late.start()
        assert process.stderr.readline().endswith(first)
        late.cancel()
        os.close(reader)
        with open(writer, "w") as config:
            config.write("input: in\n")
        assert "output is missing" in process.stderr.read()
    assert process.returncode == 2


def test_the_first_unit_ends_the_startup_and_names_what_took_long() -> None:
    now = 0.0
    console, file = plain()
    startup = Startup(console, clock=lambda: now)
    startup.step("listing the input")
    now = 3.0
    startup.step("starting Ray")
    now = 3.2
    startup.step("loading the model")
    assert startup.current == "loading the model"
    shown = Display(done=0, images_per_shard={"a": 4}, console=console, startup=startup)
    now = 45.0
    shown.receive(Receipt("unit", "a", 0, error="timed out"))
    assert startup.current
    for unit in (0, 1):
        shown.receive(Receipt("unit", "a", unit, counts={"labeled": 1}))
    assert not startup.current
    said = [line for line in file.getvalue().splitlines() if line.startswith("first")]
    assert said == ["first unit after 45 s (listing the input 3 s, loading the model 42 s)"]


def test_refusals_and_python_logs_are_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", str(tmp_path / "missing.yaml"), "--log-format", "json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [json.loads(line) for line in err.splitlines()]
    assert line["level"] == "error"
    assert "missing.yaml" in line["message"]
    with json_log() as console, safe_output():
        console.context["run"] = "r1"
        assert message_console() is console
        logging.getLogger("labeler.storage").warning("s3://key:hush@host/x: %s", "slow\x1b[2Jdown")
        console.print("warning: two\nlines", markup=False)
    err = capsys.readouterr().err
    assert "hush" not in err
    assert "\x1b" not in err
    lines = [json.loads(line) for line in err.splitlines()]
    assert [(line["level"], line["run"]) for line in lines] == [("warning", "r1")] * 2
    assert lines[1]["message"] == "two\nlines"
    assert not isinstance(message_console(), JsonConsole)


def test_of_what_ray_says_the_reason_is_kept_once() -> None:
    assert reason_of(TRACEBACK) == "RuntimeError: no model here 0x7f31"
    assert reason_of(DIED) == "Worker unexpectedly exits with a connection error code 2. End of file"
    assert reason_of("Task was killed due to the node running low on memory.\nmore") == (
        "Task was killed due to the node running low on memory."
    )
    assert reason_of("") == ""
    console, file = plain()
    news = RayNews(console)
    for text in (TRACEBACK, TRACEBACK.replace("0x7f31", "0x8a00"), DIED, ""):
        news.receive(text)
    assert file.getvalue().splitlines() == [
        "Ray repeats what failed: RuntimeError: no model here 0x7f31",
        "Ray repeats what failed: Worker unexpectedly exits with a connection error code 2. End of file",
    ]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_workers_that_cannot_start_leave_a_reason_and_no_traceback(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    console, file = plain()
    with pytest.raises(Incomplete, match="no model here"):
        label(config_of(tmp_path, checkpoint), make_detector=NoModel(), console=console)
    assert "Ray repeats what failed: RuntimeError: no model here" in file.getvalue().splitlines()
    out, err = capfd.readouterr()
    assert "Traceback" not in file.getvalue() + out + err
