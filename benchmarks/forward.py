"""How fast is a large vocabulary? Ways to run the same weights, side by side, alternating, on the available device.

    python -m benchmarks.forward --bert-vocabulary vocab.txt --output benchmarks/results/forward.json

a  transformers' model, one pass a name as its zero-shot pipeline does (a few are timed, times the number of names)
b  transformers' model, 40 names per chunk, one at a time, image and text encoded for each
b' the same with the image encoded once, the text for each chunk: what MMDetection does for LVIS
c  transformers' model, full chunks, in batches; in half precision and compiled on a GPU: what a careful user gets
d  labeler
e  labeler with CUDA graphs, on a GPU
Images are random and of one size; weights are random, at full size, unless --model names a checkpoint. a, b and b'
compute in float32; c, d and e in half precision on a GPU. A share of the peak is of the rate of one large product on
this device in the way's own precision.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.loading import choose_device, choose_half, load_model
from labeler.detectors.preprocess import Prepared
from labeler.detectors.profiling import counted_operations, matmul_rate
from labeler.prompts.grounding_dino import PromptChunk, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

NAMES_OF_MMDETECTION = 40
TIMED_NAMES = 4
WARM = 3


@dataclass(frozen=True)
class Way:
    """One way to run: `run` takes images and returns after all of their passes, or after the timed ones."""

    passes: int  # of an image
    timed_passes: int
    run: Callable[[Sequence[np.ndarray]], None]
    counted: Callable[[Sequence[np.ndarray]], None] | None = None  # the same operations, where `run` hides them
    half: bool = False  # whether its products are in half precision, where the device has any


class Stock:
    """Run the transformers forward pass, which encodes the image in each pass, or with `encoded_once` once."""

    def __init__(self, model: Any, device: torch.device, half: torch.dtype | None, preprocess: Any) -> None:
        self.model, self.device, self.half, self.preprocess = model, device, half, preprocess

    def run(self, images: Sequence[np.ndarray], chunks: Sequence[PromptChunk], together: int) -> None:
        pixels = self.preprocess(images)
        pairs = [(image, chunk) for image in range(len(images)) for chunk in chunks]
        for start in range(0, len(pairs), together):
            part = pairs[start : start + together]
            # In half precision one length for all: the compiled model is recompiled for each other one.
            longest = max(len(chunk.input_ids) for _, chunk in (pairs if self.half else part))
            ids = torch.zeros((len(part), longest), dtype=torch.long)
            for row, (_, chunk) in enumerate(part):
                ids[row, : len(chunk.input_ids)] = torch.tensor(chunk.input_ids)
            ids = ids.to(self.device)
            which = torch.tensor([image for image, _ in part], device=self.device)
            with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
                found = self.model(pixel_values=pixels[which], input_ids=ids, attention_mask=(ids != 0).long())
            found.logits.sigmoid().amax(-1).cpu()

    def run_each(self, images: Sequence[np.ndarray], chunks: Sequence[PromptChunk]) -> None:
        """One image after the other, encoded once; chunks one at a time, their text encoded for each image."""
        for image in images:
            with encoded_once(self.model):
                self.run([image], chunks, 1)


@contextmanager
def encoded_once(model: Any) -> Iterator[None]:
    """Let backbone and neck compute for their first input only, and repeat that result for all passes on one image."""
    parts = [model.model.backbone, *model.model.input_proj_vision]
    try:
        for part in parts:
            part.forward = _first_result(part.forward)
        yield
    finally:
        for part in parts:
            vars(part).pop("forward", None)


def _first_result(forward: Callable[..., Any]) -> Callable[..., Any]:
    found: list[Any] = []

    def run(*given: Any, **options: Any) -> Any:
        if not found:
            found.append(forward(*given, **options))
        return found[0]

    return run


def prefix(names: Sequence[str], tokenizer: Tokenizer, chunks: int) -> list[str]:
    """Return as many names as fill that many chunks."""
    low, high = 1, len(names)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(pack(Vocabulary.load(list(names[:middle])), tokenizer).chunks) <= chunks
        low, high = (middle, high) if fits else (low, middle - 1)
    return list(names[:low])


class StockModels:
    """transformers' model as it comes and as a careful user has it, loaded once: compiling takes minutes."""

    def __init__(self, folder: Path, device: torch.device, *, compiled: bool = True) -> None:
        """
        Args:
            compiled: whether a careful user compiles it; on a CPU that makes it slower, and nobody does.
        """
        self.device, self.half = device, torch.float16 if device.type == "cuda" else None
        self.exact: Any = load_model(checkpoints.resolve(folder), device)
        self.careful = torch.compile(self.exact) if self.half and compiled else self.exact


def ways(
    folder: Path,
    names: list[str],
    size: tuple[int, int],
    stock: StockModels,
    only: str,
    pairs: int | None,
    images: int,
    *,
    names_per_chunk: int = NAMES_OF_MMDETECTION,
) -> dict[str, Way]:
    """The ways asked for, loaded. The ones of transformers share one model.

    Args:
        size: (shortest, longest) edge of the images.
        only: letters of ways, such as "bb'd".
        pairs: (image, chunk) pairs in one forward pass of d; None: auto-tuned.
        images: given to a way at once.
        names_per_chunk: of b and b'.
    """
    tokenizer, vocabulary, device = Tokenizer.load(folder), Vocabulary.load(names), stock.device
    options: dict[str, Any] = {
        "device": str(device),
        "image_size": size,
        "pairs_per_batch": pairs,
        "cuda_graphs": False,
    }
    # Random weights show every rounding: whether the engine would be chosen is for real ones to say.
    options["engine"] = "fast"
    ours = GroundingDino(folder, vocabulary, threads=torch.get_num_threads(), **options)
    full, small = ours.prompts.chunks, pack(vocabulary, tokenizer, max_categories=names_per_chunk).chunks
    single = pack(Vocabulary.load(names[:TIMED_NAMES]), tokenizer, max_categories=1).chunks

    def preprocess(images: Sequence[np.ndarray]) -> Any:
        return ours._passes.normalize(ours._passes.upload([ours.prepare(image) for image in images]))

    def label(detector: GroundingDino, images: Sequence[np.ndarray]) -> None:
        detector.detect_prepared([Prepared(image, *image.shape[:2]) for image in images])

    exact = Stock(stock.exact, device, None, preprocess)
    careful = Stock(stock.careful, device, stock.half, preprocess)
    # All batches of one size: each other one is recompiled.
    together = max(size for size in range(1, 9) if len(full) * images % size == 0) if stock.half else 1
    found = {
        "a": Way(len(names), len(single), lambda images: exact.run(images, single, 1)),
        "b": Way(len(small), len(small), lambda images: exact.run(images, small, 1)),
        "b'": Way(len(small), len(small), lambda images: exact.run_each(images, small)),
        "c": Way(
            len(full),
            len(full),
            lambda images: careful.run(images, full, together),
            (lambda images: exact.run(images, full, 1)) if stock.half else None,
            half=True,
        ),
        "d": Way(len(full), len(full), partial(label, ours), half=True),
    }
    print(f"   d: {ours.description}, {ours.pairs_per_batch} pairs per forward pass")
    if device.type == "cuda" and "e" in only:
        options["pairs_per_batch"] = ours.pairs_per_batch
        replaying = GroundingDino(folder, vocabulary, **options | {"cuda_graphs": True})
        print(f"   e: {replaying.description}")
        if replaying._recorded is not None:  # the trial may have refused them
            found["e"] = Way(len(full), len(full), partial(label, replaying), partial(label, ours), half=True)
    return {name: way for name, way in found.items() if name in re.findall("[a-e]'?", only)}


def timed(device: torch.device, run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    found: dict[str, Way],
    batches: Sequence[Sequence[np.ndarray]],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Seconds an image of each way, one after the other in every round, so that noise meets all alike.

    Args:
        batches: what goes in at once; the first is to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in found}
    counted: dict[str, float] = {}
    with torch.inference_mode():
        for name, way in found.items():
            with counted_operations() as operations:
                taken = timed(device, partial(way.counted or way.run, batches[0][:1]))
                counted[name] = operations() * way.passes / way.timed_passes
            if way.counted or len(batches[0]) > 1:
                taken = timed(device, partial(way.run, batches[0]))  # compiles, where it does
            print(f"   {name}: {taken:.1f} s at first", flush=True)
            for _ in range(WARM if device.type == "cuda" else 0):  # recordings begin with the third
                way.run(batches[0])
        for batch in batches[1:]:
            for name, way in found.items():
                taken = timed(device, partial(way.run, batch), clock)
                seconds[name].append(taken * way.passes / way.timed_passes / len(batch))
    return {
        name: {
            "passes": found[name].passes,
            "extrapolated": found[name].timed_passes < found[name].passes,
            "seconds": values,
            "median_s": statistics.median(values),
            "flop": counted[name],
            "half": found[name].half,
        }
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint folder; default: random weights at full size")
    parser.add_argument("--bert-vocabulary", type=Path, help="vocab.txt for the random checkpoint")
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 4, 15], help="of LVIS names")
    parser.add_argument("--edges", type=int, nargs=2, default=None, help="height and width; default by device")
    parser.add_argument("--images", type=int, default=1, help="given to a way at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="abb'cde", help="which ways")
    parser.add_argument("--pairs", type=int, help="(image, chunk) pairs in one forward pass of d")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="of this process, not of the clock: for one thread on a CPU that others use, too",
    )
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device("auto")
    height, width = arguments.edges or ((800, 1066) if device.type == "cuda" else (256, 341))
    generator = np.random.default_rng(0)
    count = (arguments.rounds + 1) * arguments.images
    images = [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]
    batches = [images[start : start + arguments.images] for start in range(0, count, arguments.images)]
    half = choose_half("auto", device)
    clock = time.process_time if arguments.cpu_seconds else None
    roofs = {False: matmul_rate(device, None, clock), True: matmul_rate(device, half, clock)}
    result: dict[str, Any] = {
        "machine": machine(),
        "image": [height, width],
        "images_at_once": arguments.images,
        "seconds_of": "the CPU" if arguments.cpu_seconds else "the clock",
        "matmul_flops": roofs[True],
        "matmul_flops_float32": roofs[False],
    }
    print(f"{result['machine']}\nimages of {width} x {height}")
    print(f"one large product reaches {roofs[False] / 1e9:.0f} GF/s in float32, the peak of a, b and b'; ", end="")
    print(f"{roofs[True] / 1e9:.0f} in {str(half or torch.float32).removeprefix('torch.')}, the peak of the others")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model or Path(temporary)
        names = [category.name for category in Vocabulary.load("lvis_v1").categories]
        if arguments.model is None:
            vocab = arguments.bert_vocabulary
            create_checkpoint(folder, words=names, vocab_file=vocab, kind="original", size="full", redraw=True)
        stock = StockModels(folder, device)
        for chunks in arguments.chunks:
            asked = prefix(names, Tokenizer.load(folder), chunks)
            print(f"\n{len(asked)} LVIS names in {chunks} chunks")
            found = ways(folder, asked, (height, width), stock, arguments.only, arguments.pairs, arguments.images)
            rows = measure(found, batches, device, clock or time.perf_counter)
            result[f"{chunks} chunks"] = {"names": len(asked), "peak_bytes": peak_bytes(device), "ways": rows}
            _print(rows, roofs)
            if arguments.output:
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def _print(rows: dict[str, Any], roofs: dict[bool, float]) -> None:
    ours = rows.get("d")
    print(f"{'':4}{'passes':>8}{'s/image':>10}{'min':>9}{'max':>9}{'ms/pass':>9}{'of roof':>9}{'d is faster by':>16}")
    for name, row in rows.items():
        median = row["median_s"]
        by = f"{median / ours['median_s']:.2f}" if ours else ""
        mark = "*" if row["extrapolated"] else " "
        print(
            f"{name:3}{mark}{row['passes']:8}{median:10.4f}{min(row['seconds']):9.4f}{max(row['seconds']):9.4f}"
            f"{1000 * median / row['passes']:9.1f}{row['flop'] / median / roofs[row['half']]:9.1%}{by:>16}",
            flush=True,
        )
    if any(row["extrapolated"] for row in rows.values()):
        print("* from a few passes, times their number")


if __name__ == "__main__":
    main()
