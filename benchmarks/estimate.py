"""Whether real runs take what `labeler estimate` says: ten jobs of other formats, sizes, chunks and units.

    python -m benchmarks.estimate --output estimate.json

Each job is estimated and then run, by the shipped checkpoint on this machine's CPUs, in processes of their own. None of
them was used to choose the estimate's constants. Needs an idle machine: what others take counts as the run's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parent.parent / "models/shapes"


@dataclass(frozen=True)
class Case:
    """One job: how its images lie and how large they are, and how it labels them."""

    form: str
    images: int
    pixels: int
    names: int
    unit: int
    max_tokens: int = 128
    per_shard: int = 64


CASES = (
    Case("tar", 160, 224, 8, 32),
    Case("tar", 320, 160, 8, 256),
    Case("images", 200, 200, 8, 48),
    Case("images", 40, 512, 8, 4),
    Case("parquet", 256, 160, 8, 128),
    Case("tar", 90, 256, 50, 30),
    Case("tar", 60, 300, 110, 10),
    Case("parquet", 120, 240, 40, 24, 64),
    Case("tar", 600, 128, 8, 100, per_shard=150),
    Case("images", 50, 192, 80, 10, 64),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__)
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first of them")
    parser.add_argument("--output", type=Path, help="JSON to write")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(estimated(arguments.step)))
        return 0
    rows = [measure(case) for case in CASES[: arguments.cases]]
    inside, off = sum(row["inside"] for row in rows), max(row["off"] for row in rows)
    print(f"{inside} of {len(rows)} runs took what was estimated; middles off by at most {off:.0%}")
    if arguments.output:
        from benchmarks.machine import machine

        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


def measure(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_job(case, folder)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.estimate", "--step", str(config)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "labeler", "label", str(config)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
    middle = (found["low_s"] + found["high_s"]) / 2
    inside = found["low_s"] <= seconds <= found["high_s"]
    row = {**asdict(case), **found, "seconds": round(seconds, 1), "inside": inside, "off": abs(middle / seconds - 1)}
    print(json.dumps(row), flush=True)
    return row


def write_job(case: Case, folder: Path) -> Path:
    """Write synthetic shapes in the format of the case, and a config; names beyond the eight shapes are filler."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    scenes = folder / "scenes"
    size = ["--images", str(case.images), "--images-per-shard", str(case.per_shard), "--seed", "11"]
    command = [sys.executable, "-m", "jobs.make_shapes", str(scenes), *size]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    source = folder / "in"
    source.mkdir()
    members = [member for tar in sorted(scenes.rglob("*.tar")) for member in _images(tar)]
    encoded = []
    for data in members:
        sink = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").resize((case.pixels, case.pixels)).save(sink, "JPEG", quality=90)
        encoded.append(sink.getvalue())
    if case.form == "images":
        for number, data in enumerate(encoded):
            (source / f"{number:05d}.jpg").write_bytes(data)
    elif case.form == "parquet":
        for start in range(0, len(encoded), case.per_shard):
            pq.write_table(
                pa.table({"image": encoded[start : start + case.per_shard]}), source / f"{start:05d}.parquet"
            )
    else:
        for start in range(0, len(encoded), case.per_shard):
            _write_tar(source / f"{start:05d}.tar", encoded[start : start + case.per_shard])
    names = (scenes / "vocabulary.txt").read_text().split("\n")[: case.names]
    names = [name for name in names if name.strip()]
    filler = [f"{a} {b}" for a in _FIRST for b in _SECOND][: max(0, case.names - len(names))]
    config = folder / "job.yaml"
    config.write_text(
        json.dumps(
            {
                "input": str(source),
                "output": str(folder / "out"),
                "vocabulary": [*names, *filler],
                "model": {"name": str(MODEL)},
                "prompts": {"max_tokens": case.max_tokens},
                "unit": {"max_images": case.unit},
            }
        )
    )
    return config


_FIRST = ("old", "new", "large", "small", "wooden", "metal", "paper", "glass", "round", "flat", "long", "short")
_SECOND = ("house", "boat", "table", "chair", "bottle", "road", "door", "window", "book", "lamp")


def _images(tar: Path) -> list[bytes]:
    import tarfile

    with tarfile.open(tar) as file:
        found = [(m, file.extractfile(m)) for m in file.getmembers() if m.name.endswith((".png", ".jpg"))]
        return [stream.read() for _, stream in found if stream is not None]


def _write_tar(path: Path, images: list[bytes]) -> None:
    import io
    import tarfile

    with tarfile.open(path, "w") as file:
        for number, data in enumerate(images):
            info = tarfile.TarInfo(f"{number:05d}.jpg")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def estimated(config_path: str) -> dict[str, float]:
    """What `labeler estimate` says of a job."""
    from labeler.config import load_config
    from labeler.labeling.resolve import plan_input, resolve_job
    from labeler.pipeline.site import site_of
    from labeler.trial.counting import count_images
    from labeler.trial.estimate import estimate, time_sample

    job = resolve_job(load_config(config_path, []))
    plan = plan_input(job.config)
    timing = time_sample(job, plan)
    site = site_of(job.config, on_gpu=timing.device != "cpu")
    found = estimate(job.config, timing, count_images(job.config, plan), site)
    return {
        "low_s": round(found.low_s, 1),
        "high_s": round(found.high_s, 1),
        "start_s": round(found.start_s, 1),
        "images_per_s": round(timing.images_per_s, 2),
        "chunks": job.plan.passes,
    }


if __name__ == "__main__":
    sys.exit(main())
