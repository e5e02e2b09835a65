"""Small inputs for tests: image bytes, tars, folders."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(seed: int, *, width: int = 40, height: int = 30, format: str = "PNG") -> bytes:
    """A small noise image, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def tar_bytes(members: Mapping[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tars(folder: Path, *, shards: int, images: int, first: int = 0) -> Path:
    """`shards` tars of `images` small PNGs each; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(first, first + shards):
        members = {f"{shard:03d}_{i:04d}.png": image_bytes(shard * 1000 + i) for i in range(images)}
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    return folder
