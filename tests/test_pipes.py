"""Names that lead to a pipe which nobody writes to: one line, or a row; nothing waits for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from inputs import image_bytes, tar_bytes, write_tars
from label_runs import row, write_run

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.shards import find_shards, read_units
from labeler.storage import NOT_REGULAR
from tests.log_lines import without_steps

ROOT = Path(__file__).parent.parent
TRUTH = """{"images": [{"id": 1, "file_name": "part-0.tar/0", "width": 640, "height": 480}],
"annotations": [], "categories": [{"id": 3, "name": "cat"}]}"""
LIMIT_S = 300  # a command that waits for a pipe waits forever; a slow machine does not


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, str]:
    """A config, a run, and pipes under all the names that a command line can give."""
    root = tmp_path_factory.mktemp("places")
    write_tars(root / "in", shards=1, images=2)
    values = {"input": f"{root}/in", "output": f"{root}/out", "vocabulary": "coco", "model": {"name": str(checkpoint)}}
    (root / "config.yaml").write_text(yaml.safe_dump(values))
    write_run(root / "run", {(0, 0): [row(0)]})
    (root / "truth.json").write_text(TRUTH)
    for name in ("pipe.txt", "pipe.yaml", "pipe.json", "pipe"):
        os.mkfifo(root / name)
    for name in ("config.json", "tokenizer.json", "generation_config.json", "model.safetensors"):
        shutil.copytree(checkpoint, root / name)
        (root / name / name).unlink(missing_ok=True)
        os.mkfifo(root / name / name)
    return {"ROOT": str(root), "CONFIG": f"{root}/config.yaml", "RUN": f"{root}/run"}


COMMANDS = [
    ["label", "ROOT/pipe.yaml", "--dry-run"],
    ["label", "CONFIG", "--dry-run", "vocabulary=ROOT/pipe.txt"],
    ["label", "CONFIG", "--dry-run", "vocabulary=ROOT/pipe.json"],
    ["label", "CONFIG", "--dry-run", "input.exclude=[ROOT/pipe]"],
    ["preview", "ROOT/pipe.yaml"],
    *(["label", "CONFIG", "--dry-run", f"model.name=ROOT/{name}"]
      for name in ("config.json", "tokenizer.json", "generation_config.json", "model.safetensors")),
    ["vocabulary", "check", "ROOT/pipe.txt", "--model", "ROOT/tokenizer.json"],
    ["train", "ROOT/pipe.yaml"],
    ["forget", "RUN", "--keys", "ROOT/pipe"],
    ["export", "RUN", "--to", "coco", "--thresholds", "ROOT/pipe.yaml", "--output", "ROOT/out.json"],
    ["evaluate", "RUN", "--annotations", "ROOT/pipe.json"],
    ["evaluate", "RUN", "--annotations", "ROOT/truth.json", "--groups", "ROOT/pipe.yaml"],
    ["evaluate", "ROOT/pipe.json", "--annotations", "ROOT/truth.json"],
    ["calibrate", "RUN", "--marks", "ROOT/pipe.json", "--target", "precision=0.9"],
    ["report", "RUN", "--annotations", "ROOT/pipe.json"],
    ["report", "RUN", "--output", "ROOT/pipe"],
]  # fmt: skip


def run_labeler(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "labeler.cli", *argv],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_command_that_is_given_a_pipe_ends_in_one_line(argv: list[str], places: dict[str, str]) -> None:
    for name, place in places.items():
        argv = [word.replace(name, place) for word in argv]
    done = run_labeler(argv)
    assert done.returncode == 2, done.stderr
    (line,) = without_steps(done.stderr)
    assert line.startswith("labeler: "), line
    assert NOT_REGULAR in line, line


def test_a_config_may_come_from_a_command_of_the_shell(places: dict[str, str]) -> None:
    """`labeler label <(command)`: the shell's pipe has a writer."""
    config = Path(places["CONFIG"]).read_text()
    done = run_labeler(["label", "/dev/stdin", "--dry-run", "--time-images", "0"], input=config)
    assert done.returncode == 0, done.stderr
    assert "1 shard" in done.stdout
    reader, writer = os.pipe()
    os.write(writer, config.encode())
    os.close(writer)
    try:
        argv = ["label", f"/dev/fd/{reader}", "--dry-run", "--time-images", "0"]
        assert "1 shard" in run_labeler(argv, pass_fds=[reader]).stdout
    finally:
        os.close(reader)


# ---- in the input, and in a run


def test_an_image_file_that_became_a_pipe_is_a_row_and_its_neighbors_are_read(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image_bytes(number))
    (shard,) = find_shards(str(tmp_path))
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    unit, _ = read_units(shard)
    assert [item.error for item in unit.items] == [None, NOT_REGULAR, None]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_shard_that_became_a_pipe_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        path.write_bytes(tar_bytes({"a.png": image_bytes(1)}))
    else:
        pq.write_table(pa.table({"image": [image_bytes(1)]}), path)
    (shard,) = find_shards(str(tmp_path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StorageError, match=rf"x.{kind}: not a regular file"):
        list(read_units(shard))
    with pytest.raises(Refused, match="not a regular file"):
        find_shards(str(path))


def test_cells_that_name_a_pipe_a_socket_or_a_device_are_rows(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(image_bytes(1))
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path must be short
        try:
            listener.bind("socket.png")
        finally:
            os.chdir(here)
        names = ["good.png", "pipe.png", "socket.png", "/dev/zero"]
        table = pa.table({"url": [str(tmp_path / name) for name in names]})
        pq.write_table(table, tmp_path / "x.parquet")
        (shard,) = find_shards(str(tmp_path / "x.parquet"))
        unit, _ = read_units(shard)
    assert [item.error for item in unit.items] == [None, *[NOT_REGULAR] * 3]  # type: ignore[union-attr]


def test_a_run_s_own_file_that_is_a_pipe_is_one_line(places: dict[str, str], tmp_path: Path) -> None:
    run = shutil.copytree(places["RUN"], tmp_path / "run")
    (unit,) = (run / "labels").rglob("*.parquet")
    unit.unlink()
    os.mkfifo(unit)
    for argv in (["status", str(run), "--verify"], ["export", str(run), "--to", "coco"]):
        done = run_labeler(argv)
        assert done.returncode in (1, 2), done.stderr
        assert "Traceback" not in done.stderr
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    done = run_labeler(["status", str(run)])
    assert done.returncode == 2
    assert len(without_steps(done.stderr)) == 1


def test_nothing_is_written_over_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(StorageError, match=f"{name} cannot be written: it is not a regular file"):
            storage.put(str(tmp_path / name), b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()
