"""A curator's evening, command by command: label, sample, correct, calibrate, export, train a student, compare.

    python -m benchmarks.curators_evening FOLDER --log benchmarks/results/curators-evening.log \
        --sdk .venv-tools/label-studio/bin/python

Everything runs on one machine without a GPU: `models/shapes` labels synthetic scenes, and `benchmarks.reviewer`
replaces the person at Label Studio. --sdk is a Python with label-studio-sdk (`make test-tools` makes one),
which checks the tasks and the corrected project. The log has each command and its output. Training needs
accelerate (examples/train_student/requirements.txt); without --steps nothing is trained.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.small_shapes import HELD_OUT_SEED, NAMES, TRAINING_SEED, write_scenes
from labeler import storage

ROOT = Path(__file__).parent.parent
SAMPLE, TRAIN = "run/sample.json", "examples/train_student/train.py"
LABEL_STUDIO = "tasks/labels.xml"
TEACHER, STUDENT = "models/shapes", "student"


class Evening:
    """Runs commands in a folder, and keeps a log of what they print."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[str] = []

    @property
    def log(self) -> str:
        return "\n".join(self._lines) + "\n"

    def note(self, text: str) -> None:
        self._say("", f"# {text}")

    def labeler(self, *arguments: str) -> None:
        self._run("labeler", [sys.executable, "-m", "labeler"], arguments)

    def python(self, *arguments: str, interpreter: str = sys.executable) -> None:
        self._run("python", [interpreter], arguments)

    def _run(self, name: str, command: list[str], arguments: tuple[str, ...]) -> None:
        self._say(f"$ {name} {shlex.join(arguments)}")
        start = time.perf_counter()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        own = [str(ROOT / one) if (ROOT / one).suffix == ".py" and (ROOT / one).exists() else one for one in arguments]
        done = subprocess.run(
            [*command, *own], cwd=self._folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{name} {shlex.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        self._say(*self._shown(done.stdout), f"[{time.perf_counter() - start:.0f} s]")

    def _shown(self, text: str) -> list[str]:
        """The lines without folders of this machine."""
        for place in (self._folder, ROOT):
            text = text.replace(f"{place}/", "")
        return text.rstrip().splitlines()

    def _say(self, *lines: str) -> None:
        self._lines += lines
        print("\n".join(lines), flush=True)


def spend(folder: Path, *, scenes: int, held_out: int, boxes: int, steps: int, sdk: str | None) -> str:
    """The evening; the log of it."""
    write_scenes(folder / "data", scenes, TRAINING_SEED)
    write_scenes(folder / "held-out", held_out, HELD_OUT_SEED)
    shutil.copytree(ROOT / TEACHER, folder / TEACHER)
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    _config(folder, "teacher", "data/shards", "run", "names.txt", TEACHER)
    evening = Evening(folder)
    evening.note(f"data/ has {scenes:,} synthetic scenes of eight names, held-out/ {held_out:,}; both have true boxes")
    evening.labeler("label", "teacher.yaml")
    evening.note(f"{boxes:,} boxes to review, from the score on that thresholds may get")
    drawn = ["--strategy", "estimate", "--n", str(boxes), "--threshold", "0.2"]
    evening.labeler("sample", "run", "--for", "review", *drawn)
    evening.labeler("export", "run", "--to", "label-studio", "--sample", SAMPLE, "--output", "tasks")
    evening.note("a script replaces the person: it knows the true boxes, and writes what a project exports")
    truth = "data/annotations.json"
    evening.python("-m", "benchmarks.reviewer", "tasks", SAMPLE, truth, "--output", "project.json")
    if sdk is not None:
        evening.python("tests/tools/open_project.py", "project.json", LABEL_STUDIO, interpreter=sdk)
    evening.labeler("correct", "run", "project.json", "--from", "label-studio", "--output", "corrected")
    said = ["--sample", SAMPLE, "--marks", "corrected"]
    evening.labeler("evaluate", "run", *said)
    evening.labeler("calibrate", "run", *said, "--target", "precision=0.9")
    evening.note("what only the drawing knows: how right the labels are that the thresholds keep")
    by_name = ["--categories-by-name"]
    evening.labeler("evaluate", "run", "--annotations", truth, "--thresholds", "run/thresholds.yaml", *by_name)
    layout = ["--layout", "roboflow", "--images", "copy", "--split", "train=0.95,val=0.05"]
    export = ["--thresholds", "run/thresholds.yaml", "--output", "dataset"]
    evening.labeler("export", "corrected", "--to", "coco", *layout, *export)
    if not steps:
        return evening.log
    evening.note("RF-DETR reads this layout; its backbone has to be downloaded, so a small RT-DETR is trained")
    evening.python(TRAIN, "dataset", "--output", STUDENT, "--steps", str(steps))
    _config(folder, "teacher-held-out", "held-out/shards", "teacher-held-out", "names.txt", TEACHER)
    _config(folder, "student-held-out", "held-out/shards", "student-held-out", "from_model", STUDENT)
    for name in ("teacher-held-out", "student-held-out"):
        evening.labeler("label", f"{name}.yaml")
        evening.labeler("evaluate", name, "--annotations", "held-out/annotations.json", *by_name)
    return evening.log


def _config(folder: Path, name: str, data: str, output: str, vocabulary: str, model: str) -> None:
    lines = [f"input: {data}", f"output: {output}", f"vocabulary: {vocabulary}", "model:", f"  name: {model}"]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--scenes", type=int, default=600, help="that the teacher labels")
    parser.add_argument("--held-out", type=int, default=100, help="scenes to judge teacher and student on")
    parser.add_argument("--boxes", type=int, default=300, help="to review")
    parser.add_argument("--steps", type=int, default=0, help="of 16 images each that the student trains")
    parser.add_argument("--sdk", help="a Python that has label-studio-sdk")
    parser.add_argument("--log", type=Path, help="file to write")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    log = spend(
        asked.folder.resolve(),
        scenes=asked.scenes,
        held_out=asked.held_out,
        boxes=asked.boxes,
        steps=asked.steps,
        sdk=None if asked.sdk is None else str(Path(asked.sdk).absolute()),
    )
    if asked.log:
        storage.put(str(asked.log), log.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
