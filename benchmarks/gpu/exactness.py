"""Does a GPU compute right? Each forward pass against that of transformers, on models with every parameter redrawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from labeler import checkpoints
from labeler.detectors.agreement import FLOAT32, HALF
from labeler.detectors.cuda import compute_exactly
from labeler.detectors.grounding_dino.engine_check import compare
from labeler.detectors.grounding_dino.fast import FastForward, kernels_for
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.grounding_dino.split_forward import SplitForward, TextFeatures
from labeler.detectors.loading import load_model
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

Found = tuple[Tensor, Tensor]  # logits (1, queries, tokens), boxes (1, queries, 4)
_CHANCE = 1.0  # over the root of the number: the distance of two parts of the same number of detections by chance


def reference(bench: Bench) -> None:
    """Compare the split forward pass, at the published size and for both kinds of model, with that of transformers."""
    names = bench.all_names[:40]
    for kind in ("original", "mm"):
        folder = create_checkpoint(bench.work / kind, words=names, kind=kind, redraw=True)
        _reference(
            bench, f"{kind}, small", folder, pack(Vocabulary.load(names[:6]), Tokenizer.load(folder)), (128, 171)
        )
    if not bench.small:
        _reference(bench, "published size", bench.folder, bench.prompts(1), bench.sizes[0])


@torch.inference_mode()
def _reference(bench: Bench, what: str, folder: Path, prompts: Prompts, size: tuple[int, int]) -> None:
    compute_exactly()
    stock = load_model(checkpoints.resolve(folder), bench.device)
    split = SplitForward(copy.deepcopy(stock))
    ids = prompts.chunks[0].input_ids
    text = split.encode_text([ids])
    for seed in range(2):
        pixels = _pixels(seed, size, bench.device)
        expected = _monolithic(stock, pixels, ids, text)
        found = split.detect(split.encode_image(pixels), text)
        nudged = pixels * (1 + torch.finfo(torch.float32).eps * torch.randn_like(pixels))
        _judge(bench, "split forward", what, seed, expected, found, text, _monolithic(stock, nudged, ids, text))


def _pixels(seed: int, size: tuple[int, int], device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 14, 18, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    return (smooth + 0.1 * torch.randn(1, 3, *size, generator=generator)).to(device)


def _monolithic(stock: Any, pixels: Tensor, ids: tuple[int, ...], text: TextFeatures) -> Found:
    """Return the transformers outputs for one image and one chunk; logits are as wide as the text's padding."""
    given = torch.tensor([ids], device=pixels.device)
    found = stock(pixel_values=pixels, input_ids=given, attention_mask=torch.ones_like(given))
    return found.logits[..., : text.token_mask.shape[1]], found.pred_boxes


def _judge(
    bench: Bench, what: str, where: str, seed: int, expected: Found, found: Found, text: TextFeatures, again: Found
) -> None:
    """Equal within the tolerance of float32, or as equal as the reference is to itself one rounding away."""
    tokens = text.token_mask[0]
    check, own = (compare(expected, each, tokens, FLOAT32) for each in (found, again))
    as_good = 0 < check.matched >= own.matched - _CHANCE / check.compared**0.5
    bench.journal.check(
        what, check.passed or as_good, where=where, picture=seed, found=str(check), one_rounding_away=str(own)
    )


def engines(bench: Bench) -> None:
    """Both engines at the detector's size, in float32 and in half precision; and each twice, for equal bits."""
    for chunk_size, size in enumerate(bench.sizes[:2]):
        _engines(bench, chunk_size, size)


@torch.inference_mode()
def _engines(bench: Bench, seed: int, size: tuple[int, int]) -> None:
    compute_exactly()
    model = load_model(checkpoints.resolve(bench.folder), bench.device)
    half = torch.float16 if bench.on_gpu else torch.bfloat16
    truth = SplitForward(model)
    text = truth.encode_text([bench.prompts(1).chunks[0].input_ids])
    pixels = _pixels(seed, size, bench.device)
    features = truth.encode_image(pixels)
    expected = truth.detect(features, text)
    noise = 1 + torch.finfo(torch.float32).eps * torch.randn_like(pixels)
    again = truth.detect(truth.encode_image(pixels * noise), text)
    in_half = SplitForward(model, half=half)
    theirs = compare(expected, in_half.detect(in_half.encode_image(pixels), text), text.token_mask[0], HALF)
    for number, kernels in enumerate(kernels_for(bench.device)):
        where = f"kernels {number} of {len(kernels_for(bench.device))}, {size[1]} x {size[0]}"
        exact = FastForward(model, kernels=kernels)
        _judge(bench, "fast engine, float32", where, seed, expected, exact.detect(features, text), text, again)
        fast = FastForward(model, half=half, kernels=kernels)
        _same_twice(bench, where, lambda fast=fast: fast.detect(fast.encode_image(pixels), text))  # type: ignore[misc]
        check = compare(expected, fast.detect(fast.encode_image(pixels), text), text.token_mask[0], HALF)
        as_good = 0 < check.matched >= theirs.matched - _CHANCE / check.compared**0.5
        told = {"where": where, "found": str(check), "transformers_own": str(theirs)}
        bench.journal.check("fast engine, half precision", check.passed or as_good, **told)


def _same_twice(bench: Bench, where: str, run: Callable[[], Found]) -> None:
    first, second = run(), run()
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    bench.journal.row("fast engine, half precision: equal bits twice", where=where, equal=same)
