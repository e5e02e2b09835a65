"""Grounding DINO as a detector: images in, detections of a whole vocabulary out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labeler import checkpoints
from labeler.checkpoints import DetectorCheckpoint
from labeler.detectors.batch_size import find_pairs
from labeler.detectors.clock import seconds_on
from labeler.detectors.graphs import GraphRecorder, Recorded, in_a_line, try_out
from labeler.detectors.grounding_dino.engine import ENGINES, choose_engine
from labeler.detectors.grounding_dino.engine_check import check_picture
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.passes import Passes
from labeler.detectors.grounding_dino.scoring import Scorer, check_choices
from labeler.detectors.grounding_dino.split_forward import SplitForward
from labeler.detectors.host_copy import HostCopy, one_ahead
from labeler.detectors.loading import choose_device, choose_half, load_model
from labeler.detectors.preprocess import DetectError, Prepared, Preprocessing
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.merge import merge
from labeler.prompts.grounding_dino import MAX_TOKENS, Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Started:
    """Images of one shape whose forward is under way, or why they have none."""

    images: Sequence[Prepared]
    rows: HostCopy | None = None
    refused: str = ""


class GroundingDino:
    """A loaded Grounding DINO, MM-Grounding-DINO or LLMDet checkpoint with its vocabulary.

    `prepare` may be called by many threads; the other methods by one at a time.

    Attributes:
        prompts: the chunks it looks for.
        device, dtype: what is really used.
        engine_check: in words, how the engine compares with transformers' own forward.
    """

    def __init__(
        self,
        model: str | Path | DetectorCheckpoint,
        vocabulary: Vocabulary | Prompts | str | Sequence[str],
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        engine: str = "auto",
        score_floor: float = 0.05,
        max_detections: int = 300,
        assignment: str = "argmax",
        score: str = "mean",
        nms_iou: float = 0.7,
        image_size: tuple[int, int] | None = None,
        resize: str = "pillow",
        jpeg_draft: bool = False,
        pairs_per_batch: int | None = None,
        cuda_graphs: bool = False,
        threads: int | None = None,
    ) -> None:
        """Load the model and encode the vocabulary, once.

        Args:
            model: hub name, local folder or URL, as `checkpoints.resolve` takes it, or what that returned:
                then the weights are not read for a digest again.
            vocabulary: a vocabulary, its packed prompts, or whatever `Vocabulary.load` takes.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            dtype: "auto" (float16 on a GPU, float32 on a CPU), "float32", "float16" or "bfloat16", for the matrix
                products; coordinates are always float32.
            engine: "fast", "transformers" (its own modules throughout, the reference), or "auto": fast where the model
                is understood and one picture comes out equal, else transformers with a warning.
            score_floor: detections below are not returned, 0 to 1.
            max_detections: per image, the best; 0 for no cap.
            assignment: "argmax" (a query is one category) or "flattened" (every query and category that reach the
                floor, of each chunk at most as many as the larger of queries and `max_detections`).
            score: "mean" or "max" over a phrase's tokens.
            nms_iou: overlap above which the worse of two boxes of one category is dropped; 1 for no suppression.
            image_size: (shortest, longest) edge in pixels instead of the checkpoint's own.
            resize: "pillow", equal to the checkpoint's own processor, or "torch", faster and up to one level off.
            jpeg_draft: whether large JPEGs may be decoded at 1/2, 1/4 or 1/8, see `least_shape`.
            pairs_per_batch: None for 1 on a CPU, and on a GPU what a trial at the start finds fastest.
            cuda_graphs: whether shapes that come often are recorded and replayed on a GPU, where a trial at the start
                finds that faster and equal; only the fast engine can be.
            threads: torch's threads on a CPU; None leaves them.

        Raises:
            Refused: anything wrong with the model, the vocabulary or the arguments, in one line.
        """
        _check_numbers(score_floor, max_detections, nms_iou, pairs_per_batch)
        check_choices(score=score, assignment=assignment)
        if engine not in ENGINES:
            raise Refused(f"engine is one of {', '.join(ENGINES)}; got {engine}")
        self._threads, self._jpeg_draft = threads, jpeg_draft
        self._take_threads()
        if not isinstance(model, DetectorCheckpoint):
            model = checkpoints.resolve(model, revision=revision)
        self.checkpoint = model
        self.preprocessing = Preprocessing.of(self.checkpoint, image_size, resize=resize)
        self.device = choose_device(device)
        half = choose_half(dtype, self.device)
        if half is None and self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # float32 is float32: convolutions would be rounded to 10 bits
        loaded = load_model(self.checkpoint, self.device)
        self.dtype = str(half or torch.float32).removeprefix("torch.")
        self.prompts = _prompts(vocabulary, self.checkpoint, loaded.config.max_text_len)
        self.score_floor, self.max_detections, self.nms_iou = score_floor, max_detections, nms_iou
        with torch.inference_mode(), self._here():
            reference = SplitForward(loaded, half=half)
            text = reference.encode_text([chunk.input_ids for chunk in self.prompts.chunks])
            name = self.checkpoint.name
            forward, self.engine_check = choose_engine(engine, reference, text, self.preprocessing, name)
        candidates = max(forward.num_queries, max_detections) if max_detections else 0
        width = text.token_mask.shape[1]
        scorer = Scorer(self.prompts, width, self.device, score=score, assignment=assignment, candidates=candidates)
        self._passes, self._memory = Passes(forward, text, scorer, self.preprocessing, pairs_per_batch or 1), ""
        with self._here():
            if pairs_per_batch is None and self.device.type == "cuda":
                self.pairs_per_batch = find_pairs(self._seconds_of)
            self._recorded, self._graphs = self._record() if cuda_graphs else (None, "")

    @property
    def pairs_per_batch(self) -> int:
        """(image, chunk) pairs per forward; halved when the GPU's memory runs out."""
        return self._passes.pairs_per_batch

    @pairs_per_batch.setter
    def pairs_per_batch(self, pairs: int) -> None:
        self._passes.pairs_per_batch = pairs

    def _record(self) -> tuple[Recorded | None, str]:
        """What replays the passes, if that is worth it here; and in a few words why, or why not."""
        if self.device.type != "cuda" or not isinstance(self._passes.forward, FastForward):
            return None, "not used: they are for the fast engine on a GPU"
        record = GraphRecorder(lambda: self._passes.kept)
        picture = self.prepare(check_picture())
        try:
            with torch.inference_mode():
                pixels = self._passes.upload([picture] * self.images_per_forward)
                trial = try_out(self._passes, record, pixels, seconds_on(self.device))
            words = str(trial)
            if trial.passed:
                return Recorded(self._passes, record), f"used: {words}"
        except RuntimeError as error:  # torch.OutOfMemoryError, too
            words = in_a_line(error)
        torch.cuda.empty_cache()  # out here: in there the error still holds the memory of what failed
        return None, f"not used: {words}"

    @property
    def description(self) -> dict[str, str]:
        """What is really used, for a run's file metadata: `engine` ("fast" or "transformers") and `engine_check`, how
        it compares with transformers' own forward in float32; `dtype`; `device`, "cpu" or the GPU's name; `memory`
        once the GPU's ran out; `cuda_graphs` where they were asked for.
        """
        on_gpu = self.device.type == "cuda"
        return {
            "engine": "fast" if isinstance(self._passes.forward, FastForward) else "transformers",
            "engine_check": self.engine_check,
            "dtype": self.dtype,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            **({"memory": self._memory} if self._memory else {}),
            **({"cuda_graphs": self._graphs_in_words} if self._graphs else {}),
        }

    @property
    def _graphs_in_words(self) -> str:
        problem = self._recorded.problem if self._recorded else ""
        return f"given up: {problem}" if problem else self._graphs

    def _seconds_of(self, pairs: int) -> float:
        """How long so many pairs take, on an empty image of 4:3; may raise torch.OutOfMemoryError."""
        empty = np.zeros((*self.preprocessing.rule.canvas(480, 640), 3), np.uint8)
        clock = seconds_on(self.device)
        with torch.inference_mode():
            encoded = self._passes.encode(self._passes.upload([Prepared(empty, *empty.shape[:2])]))
            image = encoded.take(torch.zeros(pairs, dtype=torch.long, device=self.device))
            text = self._passes.text.take(torch.arange(pairs, device=self.device) % len(self.prompts.chunks))
            for _ in range(2):  # the first one also loads kernels
                start = clock()
                self._passes.forward.detect(image, text)
            return clock() - start

    @property
    def least_shape(self) -> Callable[[int, int], tuple[int, int]] | None:
        """The least (height, width) to decode an upright image of a (height, width) at; None: always all of it."""
        return self.preprocessing.rule.target if self._jpeg_draft else None

    def prepare(self, image_rgb: npt.NDArray[np.uint8], full_size: tuple[int, int] | None = None) -> Prepared:
        """Resize an upright (h, w, 3) uint8 RGB image for this detector. CPU only, thread-safe.

        Args:
            full_size: (height, width) of the image where it was decoded smaller; boxes come back in this frame.
        """
        return self.preprocessing.prepare(image_rgb, full_size)

    def _here(self) -> AbstractContextManager[Any]:
        """The detector's GPU is this thread's current one: triton and recordings ask for no other."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _take_threads(self) -> None:
        """Each thread has its own number of torch threads, and one that is new gets whatever was set last anywhere."""
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def detect(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Detections of upright (h, w, 3) uint8 RGB images, in their order. Raises DetectError if one fails."""
        results = self.detect_prepared([self.prepare(image) for image in images])
        found = []
        for result in results:
            if isinstance(result, DetectError):
                raise result
            found.append(result)
        return found

    def detect_prepared(self, batch: Sequence[Prepared]) -> list[Detections | DetectError]:
        """Detections of prepared images of any sizes, in their order; an image that fails has its DetectError.

        Images of one resized shape may share a forward. None is padded, because that changes its detections, but for
        those with a side too short for the backbone.
        """
        results: dict[int, Detections | DetectError] = {}
        for places, found in one_ahead(self.begin(batch)):
            results.update(zip(places, found(), strict=True))
        return [results[place] for place in range(len(batch))]

    def begin(
        self, batch: Sequence[Prepared]
    ) -> Iterator[tuple[list[int], Callable[[], list[Detections | DetectError]]]]:
        """As `detect_prepared`, one forward a step: its images' places in the batch, and what waits for their results.

        On a GPU a forward is only under way when it is given, so the next one may be begun before it is waited for.
        """
        self._take_threads()
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(batch):
            groups.setdefault(image.shape, []).append(place)
        for places in groups.values():
            while places:
                together = places[: self.images_per_forward]
                try:
                    started = self._start([batch[place] for place in together])
                except torch.OutOfMemoryError:
                    if self.pairs_per_batch == 1 and not self._recorded:
                        raise
                else:
                    yield together, partial(self._results, started)
                    places = places[len(together) :]
                    continue
                self._make_room()  # out here: in there the error still holds the memory of what failed

    @property
    def images_per_forward(self) -> int:
        """How many images of one shape share a forward, each with all of its chunks."""
        return max(1, self.pairs_per_batch // len(self.prompts.chunks))

    def _make_room(self) -> None:
        """Go on without recordings, which hold the memory of a second forward; else with half a batch."""
        recorded, self._recorded = self._recorded, None
        if recorded:
            recorded.forget()
            self._graphs = "given up: the GPU's memory ran out"
            log.warning("CUDA graphs are %s", self._graphs)
            return
        self.pairs_per_batch //= 2
        self._memory = f"ran out: {self.pairs_per_batch} (image, chunk) pairs in a forward from now on"
        torch.cuda.empty_cache()
        log.warning("the GPU's memory %s", self._memory)

    @torch.inference_mode()
    def _start(self, images: Sequence[Prepared], *, replay: bool = True) -> _Started:
        """Images of one shape through the backbone together, then through all chunks."""
        with self._here():
            return self._start_here(images, replay)

    def _start_here(self, images: Sequence[Prepared], replay: bool) -> _Started:
        pixels = self._passes.upload(images)
        replay = replay and not self._passes.pads(pixels)
        rows = (self._recorded if replay and self._recorded else self._passes)(pixels)
        if rows is None:
            height, width = images[0].pixels.shape[:2]
            queries, positions = self._passes.forward.num_queries, self._passes.encode(pixels).features.shape[1]
            reason = f"too narrow: at {width} x {height} it has {positions} positions, and the model asks for {queries}"
            return _Started(images, refused=reason)
        return _Started(images, HostCopy(rows))

    @torch.inference_mode()
    def _results(self, started: _Started) -> list[Detections | DetectError]:
        """Waits for a forward, and makes its images' detections of it."""
        if started.rows is None:
            return [DetectError(started.refused) for _ in started.images]
        found = [self._finish(image, rows) for image, rows in zip(started.images, started.rows.numpy(), strict=True)]
        if len(found) == 1 and self._passes.forward.half is None:
            return found
        return [
            self._try_alone(image) if isinstance(result, DetectError) else result
            for image, result in zip(started.images, found, strict=True)
        ]

    def _try_alone(self, image: Prepared) -> Detections | DetectError:
        """Once more in float32 and in no company: half precision overflows, and one image's NaN reaches its batch.

        (The fusion layers subtract the maximum over the whole batch.)
        """
        forward = self._passes.forward
        half, forward.half = forward.half, None
        try:
            return self._results(self._start([image], replay=False))[0]
        finally:
            forward.half = half

    def _finish(self, image: Prepared, rows: npt.NDArray[np.float32]) -> Detections | DetectError:
        if not np.isfinite(rows).all():
            return DetectError("the model's scores or boxes are not finite")
        found = [
            self._passes.score.detections(part, chunk, floor=self.score_floor, height=image.height, width=image.width)
            for chunk, part in enumerate(rows)
        ]
        return merge(
            Detections.concat(found),
            nms_iou=self.nms_iou,
            max_detections=self.max_detections,
            negative_ids=self.prompts.negative_ids,
        )


def _check_numbers(score_floor: float, max_detections: int, nms_iou: float, pairs_per_batch: int | None) -> None:
    checks = {
        f"score_floor is 0 to 1, got {score_floor}": 0 <= score_floor <= 1,
        f"max_detections is a number of boxes, 0 for all, got {max_detections}": max_detections >= 0,
        f"nms_iou is 0 to 1, got {nms_iou}": 0 <= nms_iou <= 1,
        f"pairs_per_batch is at least 1, got {pairs_per_batch}": pairs_per_batch is None or pairs_per_batch >= 1,
    }
    for message, fine in checks.items():
        if not fine:
            raise Refused(message)


def _prompts(
    vocabulary: Vocabulary | Prompts | str | Sequence[str], checkpoint: DetectorCheckpoint, longest: int
) -> Prompts:
    if isinstance(vocabulary, Prompts):
        too_long = [chunk.index for chunk in vocabulary.chunks if len(chunk.input_ids) > longest]
        if too_long:
            raise Refused(f"prompt chunk {too_long[0]} is longer than the {longest} tokens {checkpoint.name} reads")
        return vocabulary
    loaded = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.load(vocabulary)
    return pack(loaded, Tokenizer.load(checkpoint.folder), max_tokens=min(MAX_TOKENS, longest))
