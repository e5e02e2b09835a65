"""Shared by the parts: a checkpoint, its vocabulary in a number of chunks, images, and detectors."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.forward import prefix
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.timing import one_call_s
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.profiling import matmul_rate
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

_SMALL_CHUNK = 6  # names


class Bench:
    """One part's work: where its rows go, and the size of everything.

    Attributes:
        small: sizes that a CPU does in seconds.
        device: the GPU; the CPU where there is none.
        sizes: (height, width) of images after resizing.
        chunks: numbers of prompt chunks to measure.
    """

    def __init__(self, journal: Journal, work: Path, *, small: bool) -> None:
        self.journal, self.work, self.small = journal, work, small
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sizes = [(128, 171), (171, 128), (128, 192)] if small else [(800, 1066), (1066, 800), (800, 1199)]
        self.chunks = [1, 2, 3] if small else [1, 4, 15]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def folder(self) -> Path:
        """The checkpoint of the published size that every part uses."""
        return self.work / "checkpoint"

    @cached_property
    def all_names(self) -> list[str]:
        return [category.name for category in Vocabulary.load("lvis_v1").categories]

    def names(self, chunks: int) -> list[str]:
        """LVIS names that fill a number of chunks."""
        if self.small:
            return self.all_names[: _SMALL_CHUNK * chunks]
        return prefix(self.all_names, Tokenizer.load(self.folder), chunks)

    def prompts(self, chunks: int) -> Prompts:
        """These names, packed."""
        most = _SMALL_CHUNK if self.small else None
        return pack(Vocabulary.load(self.names(chunks)), Tokenizer.load(self.folder), max_categories=most)

    def detector(self, chunks: int = 1, **options: Any) -> GroundingDino:
        """labeler's detector with a number of chunks, the fast engine unless told otherwise."""
        given = {"engine": "fast", "device": self.device.type, **options}
        return GroundingDino(self.folder, self.prompts(chunks), **given)

    def pictures(self, count: int, sizes: list[tuple[int, int]] | None = None) -> list[npt.NDArray[np.uint8]]:
        """Return images of the model's sizes, round-robin."""
        sizes = sizes or self.sizes
        return [picture(seed, sizes[seed % len(sizes)]) for seed in range(count)]


def picture(seed: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(height, width, 3): smooth colors, edges and noise, a little like a photograph."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (14, 18, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + random.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)


def prepare(bench: Bench) -> None:
    """The checkpoint, every parameter drawn; and what this device reaches in one product and one copy."""
    size = "tiny" if bench.small else "full"
    create_checkpoint(bench.folder, words=bench.all_names, kind="original", size=size, redraw=True)
    rates: dict[str, Any] = {"float32_tflops": round(matmul_rate(bench.device) / 1e12, 3)}
    if bench.on_gpu:
        rates["half_tflops"] = round(matmul_rate(bench.device, torch.float16) / 1e12, 1)
    bench.journal.row("one product", **rates)
    block = torch.empty(2 * 10**9 if bench.on_gpu else 10**8, dtype=torch.uint8, device=bench.device)
    other = torch.empty_like(block)
    seconds = min(one_call_s(lambda: other.copy_(block), bench.device) for _ in range(4))
    bench.journal.row("one copy", tb_per_s=round(2 * block.numel() / seconds / 1e12, 4))
