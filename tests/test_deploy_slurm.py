"""deploy/slurm.sh: its syntax, the names it takes of Slurm and Ray, and runs with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from labeler.runs import open_run, read_snapshot
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.ray_heads import ROOT, ray_head

FILE = ROOT / "deploy" / "slurm.sh"
# Of sbatch's manual: options, and what it sets in a job's environment.
OPTIONS = set(
    """
    account array begin chdir comment constraint container cpus-per-gpu cpus-per-task deadline dependency
    distribution error exclude exclusive export gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket
    gpus-per-task gres hint hold input job-name kill-on-invalid-dep licenses mail-type mail-user mem mem-per-cpu
    mem-per-gpu mincpus nice no-requeue nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node
    open-mode output partition prefer priority profile qos reboot requeue reservation signal sockets-per-node
    spread-job switches threads-per-core time time-min tmp wait wckey wrap
    """.split()  # noqa: SIM905
)
VARIABLES = {
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_CPUS_PER_TASK",
    "SLURM_GPUS_ON_NODE",
    "SLURM_RESTART_COUNT",
    "SLURM_NODEID",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_SUBMIT_DIR",
}
SRUN = """#!/bin/bash
# One task on each node, one after the other, the first node last: as in a cluster, its end is the job's.
while [[ "$1" == --* ]]; do echo "srun $1" >> "$NOTES"; shift; done
code=0
for ((node = SLURM_JOB_NUM_NODES - 1; node >= 0; node--)); do SLURM_NODEID=$node "$@" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then printf 'node-%s\\n' 1 2; else echo "scontrol $*" >> "$NOTES"; fi
"""
LIGHT_RAY = """#!/bin/bash
note="ray $SLURM_NODEID"
shift
while [ "$1" != -- ]; do note="$note $1"; shift; done
shift
echo "$note" >> "$NOTES"
[ "$SLURM_NODEID" != 0 ] || exec "$@"
"""
# Ray's own command would also stop every other Ray of this machine, so that only what it checks and calls is done here.
RAY = """#!{python}
import os, subprocess, sys
from ray.scripts import scripts
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args
name, *words = sys.argv[1:]
assert name == "symmetric-run", name
before, command = words[: words.index("--")], words[words.index("--") + 1 :]
scripts.start.make_context("start", curate_and_validate_ray_start_args(list(before)))
with open(os.environ["NOTES"], "a") as notes:
    print("ray", os.environ["SLURM_NODEID"], *before, file=notes)
assert os.path.isdir(os.environ["RAY_TMPDIR"])
if os.environ["SLURM_NODEID"] == "0":
    sys.exit(subprocess.run(command).returncode)
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run_script(
    tmp_path: Path, *words: str, python: str, script: Path = FILE, ray: str = RAY, **more: str
) -> tuple[int, str, list[str]]:
    """Exit code, output, and what the stand-ins noted; `python` is what the environment's command of that name does."""
    environment, stand_ins, notes = tmp_path / "env", tmp_path / "bin", tmp_path / "notes"
    executable(environment / "bin" / "ray", ray.replace("{python}", sys.executable))
    executable(environment / "bin" / "python", f"#!/bin/bash\n{python}\n")
    executable(stand_ins / "srun", SRUN)
    executable(stand_ins / "scontrol", SCONTROL)
    variables = {
        "PATH": f"{stand_ins}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path / "t"),
        "NOTES": str(notes),
        "LABELER_ENV": str(environment),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "2",
        **more,
    }
    (tmp_path / "t").mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", str(script), *words],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, notes.read_text().splitlines() if notes.exists() else []


def problems(text: str) -> list[str]:
    """What is wrong with a script, without running it."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    found = [done.stderr] if done.returncode else []
    keys = re.findall(r"^#SBATCH\s+(.*)$", text, re.MULTILINE)
    names = [re.fullmatch(r"--([a-z-]+)(=\S+)?", key) for key in keys]
    found += [key for key, name in zip(keys, names, strict=True) if name is None or name[1] not in OPTIONS]
    first_command = next(n for n, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    found += [line for line in text.splitlines()[first_command:] if line.startswith("#SBATCH")]  # Slurm skips those
    return found + sorted(set(re.findall(r"SLURM_[A-Z_]+", text)) - VARIABLES)


def test_the_script_is_sound_and_its_keys_are_slurms() -> None:
    assert problems(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("#SBATCH --nodes=4", "#SBATCH --node=4"),
        ("#SBATCH --requeue", "#SBATCH requeue"),
        ("#SBATCH --gpus-per-node=4", "#SBATCH --gpu-per-node=4"),
        ("set -euo pipefail", "set -euo pipefail\n#SBATCH --nodes=5"),
        ("$SLURM_JOB_NODELIST", "$SLURM_NODE_LIST"),
        ("if [ $# -lt 1 ]; then", "if [ $# -lt 1 ]"),
    ],
)
def test_a_broken_script_is_not(right: str, wrong: str) -> None:
    assert right in FILE.read_text()
    assert problems(FILE.read_text().replace(right, wrong, 1))


@pytest.mark.parametrize("ray", ["", pytest.param(RAY, marks=pytest.mark.slow)], ids=["", "its options"])
def test_ray_is_started_on_each_node_and_labels_on_the_first_alone(tmp_path: Path, ray: str) -> None:
    code, output, notes = run_script(tmp_path, "c.yaml", "a=b c", python='printf "%s|" "$@"', ray=ray or LIGHT_RAY)
    assert (code, output) == (0, "-m|labeler|label|c.yaml|a=b c|ray.address=auto|")
    started = "--address node-1:24711 --min-nodes 2 --num-cpus 2 --num-gpus 0 --disable-usage-stats"
    assert notes[-2:] == [f"ray 1 {started}", f"ray 0 {started}"]
    assert "srun --cpus-per-task=2" in notes


@pytest.mark.parametrize(
    ("code", "restarts", "again"), [(0, "", False), (1, "", True), (1, "2", True), (1, "3", False), (2, "", False)]
)
def test_an_incomplete_run_is_queued_again_and_a_refused_one_is_not(
    tmp_path: Path, code: int, restarts: str, again: bool
) -> None:
    ended, _, notes = run_script(
        tmp_path, "c.yaml", python=f"exit {code}", ray=LIGHT_RAY, SLURM_RESTART_COUNT=restarts or "0"
    )
    assert ended == code
    assert ("scontrol requeue 4711" in notes) == again


def test_without_a_config_it_says_how_it_is_called(tmp_path: Path) -> None:
    code, output, notes = run_script(tmp_path, python="true", ray=LIGHT_RAY)
    assert (code, notes) == (2, [])
    assert output == "usage: sbatch deploy/slurm.sh CONFIG [key=value ...]\n"


@pytest.mark.slow  # each node's command loads Ray
@pytest.mark.parametrize(
    ("right", "wrong"), [("--num-cpus", "--num-cpu"), ("symmetric-run", "symetric-run"), (" -- \\", " \\")]
)
def test_what_ray_does_not_take_fails(tmp_path: Path, right: str, wrong: str) -> None:
    broken = tmp_path / "broken.sh"
    assert right in FILE.read_text()
    broken.write_text(FILE.read_text().replace(right, wrong))
    assert run_script(tmp_path, "c.yaml", python="true", script=broken)[0] != 0


@pytest.mark.slow
def test_it_labels_on_the_ray_of_its_node(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=1, images=3)
    values = {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint)},
        "ray": {"gpus_per_worker": 0, "cpus_per_worker": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    with ray_head("--num-cpus=3") as head:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "r4711").symlink_to(head.folder)  # where the script has Ray keep its files
        code, output, _ = run_script(tmp_path, str(tmp_path / "c.yaml"), python=f'exec {sys.executable} "$@"')
        assert code == 0, output
        assert f"joined the Ray cluster at {head.note.read_text().strip()} (ray.address)" in output
    run = open_run(str(tmp_path / "out"))
    assert run is not None
    assert read_snapshot(run).is_complete
