"""Label a small bucket with the labeler of this checkout and freeze it: `python -m tests.frozen.freeze NAME`.

Run it in a checkout of the version to freeze, and commit tests/frozen/NAME.tar.xz. The bucket holds tars, image files,
drawn checkpoints, and these runs: `run` (extended by a third tar, with an image that cannot be decoded and one that
was removed on request), `run-retry` and `run-masks` derived from it, `part` (half labeled) and `files` (image files).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
import torch
from safetensors.torch import load_file, save_file

from tests.frozen import archive
from tests.inputs import image_bytes, tar_bytes
from tests.s3_server import S3Server, _wait_for

BUCKET = "frozen"
NAMES = ("cat", "dog", "traffic light", "bus")


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="freeze-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, process)
        server = S3Server(f"http://127.0.0.1:{port}", work / "log")
        os.environ.update(server.env)
        server.create_bucket(BUCKET)
        _fill(work, server)
        archive.save(server.endpoint, BUCKET, archive.FOLDER / f"{sys.argv[1]}.tar.xz")
    finally:
        process.terminate()
        shutil.rmtree(work)


def _fill(work: Path, server: S3Server) -> None:
    client = boto3.client("s3", endpoint_url=server.endpoint)
    _upload_checkpoints(work, client)
    for shard in range(2):
        _put_tar(client, shard)
    for i in range(6):
        client.put_object(Bucket=BUCKET, Key=f"pictures/{i % 2}/{i}.png", Body=image_bytes(50 + i))
    _put_annotations(client)
    config = config_file(work, "run", "s3://frozen/in")
    _labeler("label", config)
    _put_tar(client, 2)
    _labeler("label", config, "--extend")
    (work / "forget.txt").write_text("00001.tar/1_2.png\n")
    _labeler("forget", "s3://frozen/run", "--keys", str(work / "forget.txt"))
    _labeler("retry", "s3://frozen/run", "--status", "decode_error")
    _labeler("mask", "s3://frozen/run", "masks.model=s3://frozen/sam", "masks.max_masks=3")
    part = config_file(work, "part", "s3://frozen/in")
    _labeler("label", part)
    for key in ("labels/000001/000001.parquet", "labels/000002/000000.parquet"):
        client.delete_object(Bucket=BUCKET, Key=f"part/{key}")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="part/shards/"):
        for entry in page["Contents"]:
            if not entry["Key"].startswith("part/shards/000000-"):
                client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_object(Bucket=BUCKET, Key="part/report.json")
    _labeler("label", config_file(work, "files", "s3://frozen/pictures"))


def _upload_checkpoints(work: Path, client: Any) -> None:
    from labeler.detectors.grounding_dino.scratch import Size, create_checkpoint
    from labeler.segmenters.scratch import create_segmenter

    size = Size(queries=10, backbone_width=4, backbone_heads=(1,) * 4, text_width=16, text_layers=1, text_heads=1)
    words = sorted({word for name in NAMES for word in name.split()})
    create_checkpoint(work / "detector", words=words, size=size, redraw=True)
    create_segmenter(work / "sam")
    for folder in ("detector", "sam"):
        weights = work / folder / "model.safetensors"
        save_file({k: _coarse(v) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        for path in sorted((work / folder).iterdir()):
            client.put_object(Bucket=BUCKET, Key=f"{folder}/{path.name}", Body=path.read_bytes())


def _coarse(values: torch.Tensor) -> torch.Tensor:
    """The values with two bits of mantissa, which an archive packs into a fifth of the bytes."""
    if values.dtype != torch.float32:
        return values
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 8) / 8, exponent).contiguous()


def _put_tar(client: Any, shard: int) -> None:
    members = {f"{shard}_{i}.png": image_bytes(100 * shard + i) for i in range(6)}
    if shard == 0:
        members["0_3.png"] = b"not an image"
    sidecars = {f"{shard}_0.txt": b"a caption"}
    client.put_object(Bucket=BUCKET, Key=f"in/{shard:05d}.tar", Body=tar_bytes({**members, **sidecars}))


def _put_annotations(client: Any) -> None:
    names = [f"{shard:05d}.tar/{shard}_{i}.png" for shard in range(3) for i in range(6)]
    images = [{"id": i + 1, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    annotations = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1 + i % 4, "bbox": [4, 4, 20, 15], "area": 300, "iscrowd": 0}
        for i in range(len(images))
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    client.put_object(Bucket=BUCKET, Key="truth.json", Body=json.dumps(truth).encode())


def config_file(work: Path, run: str, source: str) -> str:
    config = {
        "input": {"uri": source, "keep": ["txt"] if source.endswith("in") else []},
        "output": f"s3://{BUCKET}/{run}",
        "vocabulary": list(NAMES),
        "model": {"name": f"s3://{BUCKET}/detector"},
        "unit": {"max_images": 4},
        "ray": {"cpus_per_worker": 1},
    }
    path = work / f"{run}.yaml"
    path.write_text(json.dumps(config))
    return str(path)


def _labeler(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "labeler", *words], check=True)


if __name__ == "__main__":
    main()
