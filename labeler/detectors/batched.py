"""A detector of any family: images in, detections of a whole vocabulary out.

Images of one shape share a forward pass. The next forward pass starts while the host works on the one before. If memory
runs out, the batch is halved. Images with NaN or infinite results run again, alone and in float32. The family defines
the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from labeler.checkpoints import DetectorCheckpoint
from labeler.config import MOST_PAIRS, DetectConfig, ModelConfig
from labeler.detectors.agreement import check_picture
from labeler.detectors.batch_size import find_pairs, most_images
from labeler.detectors.clock import Clock, seconds_on
from labeler.detectors.cuda import memory_named
from labeler.detectors.graph_trial import choose_graphs
from labeler.detectors.graphs import GraphRecorder, Recorded
from labeler.detectors.host_copy import HostCopy
from labeler.detectors.loading import choose_device, choose_half, load_model
from labeler.detectors.narrowed import NarrowedPasses
from labeler.detectors.network import Network, Setup, make_network
from labeler.detectors.passes import Passes
from labeler.detectors.preprocess import DetectError, Prepared, Preprocessing
from labeler.detectors.scoring import Scorer
from labeler.images.tiling import View
from labeler.labels.detections import Detections
from labeler.labels.in_views import in_image
from labeler.labels.merge import merge
from labeler.prompts import PromptPlan

log = logging.getLogger(__name__)

TRIALS_S = 10.0  # of a worker's start, for how many images share a forward pass and whether forward passes are replayed

Results = Callable[[], list[Detections | DetectError]]  # waits for a forward pass that has started


class BatchedDetector:
    """A loaded checkpoint with its vocabulary.

    `prepare` may be called by many threads; the other methods by one at a time.

    Attributes:
        checkpoint, plan: what it was made of.
        device, dtype: what is really used.
        memory_halvings: times that the batch was halved because the GPU's memory ran out.
        engine_check: in words, how what runs compares with transformers' own forward pass in float32.
    """

    def __init__(
        self,
        checkpoint: DetectorCheckpoint,
        plan: PromptPlan,
        *,
        model: ModelConfig,
        detect: DetectConfig,
        threads: int | None = None,
        only: Sequence[int] | None = None,
        names_per_image: bool = False,
    ) -> None:
        """Load the model and encode the vocabulary, once.

        Args:
            plan: of the checkpoint's family.
            only: the passes of the plan that are run; None for all.
            names_per_image: images may be `asked` for some names alone.
            model: its device, dtype and engine count here.
            threads: torch's threads on a CPU; None leaves them.

        Raises:
            Refused: anything wrong with the model or the options, in one line.
        """
        self._threads, self._detect = threads, detect
        self._take_threads()
        self.checkpoint, self.plan = checkpoint, plan
        self._floor = detect.floor(checkpoint.family.score_floor)
        removed = (id_ for categories in plan.phrase_categories for id_ in categories if id_ < 0)
        self._dropped = plan.negative_ids.union(removed)
        size = detect.image_size.edges if detect.image_size else None
        self.preprocessing = Preprocessing.of(checkpoint, size, resize=detect.resize)
        self.device = choose_device(model.device)
        half = choose_half(model.dtype, self.device)
        self.dtype = str(half or torch.float32).removeprefix("torch.")
        setup = Setup(checkpoint.name, self.preprocessing.rule, half, model.engine, detect.score)
        loaded = load_model(checkpoint, self.device)
        with torch.inference_mode(), self._here(), memory_named(f"encode the vocabulary and check {checkpoint.name}"):
            network = make_network(checkpoint.family, loaded, plan, setup)
            text = network.encode_text()
            self.engine_check = network.start(text)
        most = max(network.candidates, detect.max_detections) if detect.max_detections else 0

        def passes_of(plan: PromptPlan, text: Any, only: Sequence[int] | None = None) -> Passes[Any, Any]:
            scorer = Scorer(plan, self.device, assignment=detect.assignment, candidates=most, boxes=network.boxes)
            return Passes(network, text, scorer, setup.rule, passes=plan.passes, only=only)

        self._passes = passes_of(plan, text, only)
        self._passes.pairs_per_batch = min(detect.pairs_per_batch or 1, MOST_PAIRS)
        self._narrowed = NarrowedPasses(checkpoint.family, network, plan, passes_of) if names_per_image else None
        self._memory, self.memory_halvings, self._pairs = "", 0, ""
        clock = seconds_on(self.device)
        until = clock() + TRIALS_S
        with self._here(), memory_named(f"run one image with {checkpoint.name}"):
            if detect.pairs_per_batch is None and self.device.type == "cuda":
                found = find_pairs(self._seconds_of, clock=clock, until=until)
                self.pairs_per_batch, self._pairs = found.pairs, str(found)
                log.info("(image, chunk) pairs: %s", found)
            self._recorded, self._graphs = self._choose_graphs(clock, until)

    @property
    def network(self) -> Network[Any, Any]:
        """The family's half of it."""
        return self._passes.network

    @property
    def pairs_per_batch(self) -> int:
        """(image, chunk) pairs per forward pass; halved when the GPU's memory runs out."""
        return self._passes.pairs_per_batch

    @pairs_per_batch.setter
    def pairs_per_batch(self, pairs: int) -> None:
        self._passes.pairs_per_batch = pairs

    def _choose_graphs(self, clock: Clock, until: float) -> tuple[Recorded | None, str]:
        """Return what replays the passes, if that is worth it here; and in a few words why, or why not."""
        asked = self._detect.cuda_graphs
        if asked is False:
            return None, ""
        if self._narrowed:
            return None, "not used: images have prompts of their own"
        if self.device.type != "cuda" or not self.network.recordable:
            return None, "not used: they are for the fast engine on a GPU" if asked is True else ""
        with torch.inference_mode():
            return choose_graphs(
                self._passes,
                GraphRecorder(lambda: self._passes.kept),
                self._passes.upload([self._largest_picture()]),
                most=self.images_per_forward,
                always=asked is True,
                clock=clock,
                until=until,
            )

    def _largest_picture(self) -> Prepared:
        """Return the synthetic image, stretched to the shape with the most pixels that images are resized to."""
        short, long = self.preprocessing.rule.size
        return self.prepare(np.asarray(Image.fromarray(check_picture()).resize((long, short))))

    @property
    def description(self) -> dict[str, str]:
        """Return what is used in fact, for a run's file metadata.

        `engine` is "fast" or "transformers", `engine_check` how it compares with transformers' own forward pass in
        float32, and `device` "cpu" or the GPU's name. `dtype` is always there, `memory` once the GPU's ran out, `pairs`
        and `cuda_graphs` if the startup benchmark tried them.
        """
        on_gpu = self.device.type == "cuda"
        return {
            "engine": self.network.engine,
            "engine_check": self.engine_check,
            "dtype": self.dtype,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            **({"pairs": self._pairs} if self._pairs else {}),
            **({"memory": self._memory} if self._memory else {}),
            **({"cuda_graphs": self._graphs_in_words} if self._graphs else {}),
        }

    @property
    def _graphs_in_words(self) -> str:
        problem = self._recorded.problem if self._recorded else ""
        return f"given up: {problem}" if problem else self._graphs

    def _seconds_of(self, pairs: int) -> float:
        """Return seconds that this number of pairs takes, on an empty image of 4:3; may raise
        torch.OutOfMemoryError.
        """
        empty = np.zeros((*self.preprocessing.rule.canvas(480, 640), 3), np.uint8)
        clock = seconds_on(self.device)
        with torch.inference_mode():
            encoded = self._passes.encode(self._passes.upload([Prepared(empty, *empty.shape[:2])]))
            image = encoded.take(torch.zeros(pairs, dtype=torch.long, device=self.device))
            text = self._passes.text.take(torch.arange(pairs, device=self.device) % self.plan.passes)
            for _ in range(2):  # the first one also loads kernels
                start = clock()
                self.network.detect(image, text)
            return clock() - start

    @property
    def least_shape(self) -> Callable[[int, int], tuple[int, int]] | None:
        """The least (height, width) to decode an upright image of a (height, width) at; None: always all of it."""
        return self.preprocessing.rule.target if self._detect.jpeg_draft else None

    def prepare(self, image_rgb: npt.NDArray[np.uint8], full_size: tuple[int, int] | None = None) -> Prepared:
        """Resize an upright (h, w, 3) uint8 RGB image for this detector. CPU only, thread-safe.

        Args:
            full_size: (height, width) of the image where it was decoded smaller; boxes come back in this frame.
        """
        return self.preprocessing.prepare(image_rgb, full_size)

    def prepare_view(self, view_rgb: npt.NDArray[np.uint8], view: View) -> Prepared:
        """As `prepare`, the pixels of one view of an image; its detections are for `merge_views`."""
        return replace(self.prepare(view_rgb), view=view)

    def _here(self) -> AbstractContextManager[Any]:
        """Make the detector's GPU this thread's current one: triton and recordings ask for no other."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _take_threads(self) -> None:
        """Each thread has its own number of torch threads, and one that is new gets whatever was set last anywhere."""
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def detect(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Return detections of upright (h, w, 3) uint8 RGB images, in their order. Raises DetectError if one fails."""
        results = self.detect_prepared([self.prepare(image) for image in images])
        found = []
        for result in results:
            if isinstance(result, DetectError):
                raise result
            found.append(result)
        return found

    def detect_prepared(self, batch: Sequence[Prepared]) -> list[Detections | DetectError]:
        """Return detections of prepared images of any sizes, in their order; an image that fails has its DetectError.

        Images of one resized shape, asked for the same names, may share a forward pass. None is padded, because that
        changes its detections, but for those with a side too short for the backbone.
        """
        results: dict[int, Detections | DetectError] = {}
        for places, found in list(self.begin(batch)):  # all are under way before the first is waited for
            results.update(zip(places, found(), strict=True))
        return [results[place] for place in range(len(batch))]

    def begin(self, batch: Sequence[Prepared]) -> Iterator[tuple[list[int], Results]]:
        """As `detect_prepared`, one forward pass a step: its images' places in the batch, and what waits for their
        results.

        On a GPU a forward pass is only under way when it is given, so the next one may be started before it is waited
        for.
        """
        self._take_threads()
        groups: dict[Hashable, list[int]] = {}
        for place, image in enumerate(batch):
            groups.setdefault(image.group, []).append(place)
        for places in groups.values():
            while places:
                most = most_images(*batch[places[0]].shape[:2])
                together = places[: min(self.room_for(batch[places[0]]), most)]
                try:
                    started = self._start([batch[place] for place in together])
                except torch.OutOfMemoryError:
                    if self.pairs_per_batch == 1 and not self._recorded:
                        raise
                else:
                    yield together, started
                    places = places[len(together) :]
                    continue
                self._make_room()  # out here: in there the error still holds the memory of what failed

    @property
    def images_per_forward(self) -> int:
        """Return how many images of one shape share a forward pass, each with all of its passes; one where
        names are its own.
        """
        return max(1, self.pairs_per_batch // (1 if self._narrowed else self.passes))

    def room_for(self, prepared: Prepared) -> int:
        """Return how many images like this one share a forward pass."""
        return max(1, self.pairs_per_batch // self.passes_of(prepared))

    def passes_of(self, prepared: Prepared) -> int:
        """Forward passes of an image."""
        return self._narrowed.count(prepared.asked) if self._narrowed and prepared.asked is not None else self.passes

    def _passes_for(self, image: Prepared) -> Passes[Any, Any]:
        if not self._narrowed or image.asked is None:
            return self._passes
        passes = self._narrowed(image.asked)
        passes.pairs_per_batch = self.pairs_per_batch
        return passes

    @property
    def passes(self) -> int:
        """Forward passes per image: one per prompt chunk that is run."""
        return self._passes.passes

    def _make_room(self) -> None:
        """Continue without recordings, which hold the memory of a second forward; else with half a batch."""
        recorded, self._recorded = self._recorded, None
        if recorded:
            recorded.forget()
            self._graphs = "given up: the GPU's memory ran out"
            log.warning("CUDA graphs are %s", self._graphs)
            return
        self.pairs_per_batch //= 2
        self.memory_halvings += 1
        self._memory = f"ran out: {self.pairs_per_batch} (image, chunk) pairs in a forward pass from now on"
        torch.cuda.empty_cache()
        log.warning("the GPU's memory %s", self._memory)

    @torch.inference_mode()
    def _start(self, images: Sequence[Prepared], *, replay: bool = True) -> Results:
        """Run images of one shape through the backbone together, then through all passes."""
        with self._here():
            passes = self._passes_for(images[0])
            pixels = passes.upload(images)
            replay = replay and passes is self._passes and not passes.pads(pixels)
            rows = (self._recorded if replay and self._recorded else passes)(pixels)
            if rows is not None:
                return partial(self._results, passes, images, HostCopy(rows))
            height, width = images[0].shape[:2]
            queries, positions = self.network.candidates, self.network.positions(passes.encode(pixels))
            reason = f"too narrow: at {width} x {height} it has {positions} positions, and the model asks for {queries}"
            return lambda: [DetectError(reason) for _ in images]

    @torch.inference_mode()
    def _results(
        self, passes: Passes[Any, Any], images: Sequence[Prepared], copy: HostCopy
    ) -> list[Detections | DetectError]:
        """Wait for a forward pass, and makes its images' detections of it."""
        found = [self._finish(passes, image, rows) for image, rows in zip(images, copy.numpy(), strict=True)]
        if len(found) == 1 and self.network.half is None:
            return found
        return [
            self._try_alone(image) if isinstance(result, DetectError) else result
            for image, result in zip(images, found, strict=True)
        ]

    def _try_alone(self, image: Prepared) -> Detections | DetectError:
        """Again in float32 and in no company: half precision overflows, and one image's NaN reaches its batch.

        (The fusion layers subtract the maximum over the whole batch.) One pair at a time, because the number that fits
        was found in half precision; memory that runs out all the same costs this image, and no other.
        """
        half, pairs = self.network.half, self.pairs_per_batch
        self.network.half, self.pairs_per_batch = None, 1
        try:
            return self._start([image], replay=False)()[0]
        except torch.OutOfMemoryError:
            return DetectError(
                "NaN or infinite with others or in half precision, and the GPU's memory ran out in float32"
            )
        finally:
            self.network.half, self.pairs_per_batch = half, pairs

    def _finish(
        self, passes: Passes[Any, Any], image: Prepared, rows: npt.NDArray[np.float32]
    ) -> Detections | DetectError:
        if not np.isfinite(rows).all():
            return DetectError("the model's scores or boxes are NaN or infinite")
        height, width = image.height, image.width
        frame = self.preprocessing.rule.frame(height, width)
        found = [
            passes.score.detections(part, number, floor=self._floor, height=height, width=width, frame=frame)
            for number, part in zip(passes.numbers, rows, strict=True)
        ]
        return self.merge_views(found) if image.view is None else in_image(Detections.concat(found), image.view)

    def merge_views(self, found: Sequence[Detections]) -> Detections:
        """Return the final detections of an image from those of all its views, or of all passes of the only one."""
        return merge(
            Detections.concat(found),
            nms_iou=self._detect.nms_iou,
            max_detections=self._detect.max_detections,
            negative_ids=self._dropped,
        )
