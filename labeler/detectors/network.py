"""The half of a family that needs torch: a network with its vocabulary. All around it is `BatchedDetector`'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from labeler.detectors.ranges import Ranges, replaced
from labeler.errors import Refused
from labeler.prompts import Family, ImageRule, PromptPlan

BACKBONE = "image backbone"  # the part of a profile that is paid once an image


class Encoded(Protocol):
    """Images or passes, encoded; one row of every tensor for each."""

    def take(self, index: Tensor) -> Self:
        """Return those at these indices, repeats allowed."""


@dataclass(frozen=True)
class Rows:
    """Tensors as `Encoded`, for a network that needs nothing else."""

    tensors: tuple[Tensor, ...]

    def take(self, index: Tensor) -> Rows:
        return Rows(tuple(tensor.index_select(0, index) for tensor in self.tensors))


@dataclass(frozen=True)
class Scored:
    """A network's output for pairs of an image and a pass.

    Attributes:
        scores: (pairs, candidates, phrases) float32 in [0, 1], of the phrases of the plan's passes in their order;
            behind the phrases of a pass that has fewer than the largest, anything.
        boxes: (pairs, candidates, 4) float32 in parts of the model's input, as `Network.boxes` says.
        finite: (pairs,) bool, whether all is finite that the pair's scores and boxes are made of.
    """

    scores: Tensor
    boxes: Tensor
    finite: Tensor

    @staticmethod
    def of(scores: Tensor, boxes: Tensor) -> Scored:
        """Return where scores and boxes themselves say whether all went well."""
        finite = scores.isfinite().all(-1).all(-1) & boxes.isfinite().all(-1).all(-1)
        return Scored(scores, boxes, finite)


@dataclass(frozen=True)
class Setup:
    """The settings that a network is made for.

    Attributes:
        name: of the checkpoint, for messages.
        rule: of its images.
        half: dtype of the matrix products under autocast, None for float32 throughout.
        engine: `model.engine`, of families that have it.
        score: `detect.score`, of families that have it.
    """

    name: str
    rule: ImageRule
    half: torch.dtype | None
    engine: str = "auto"
    score: str = "mean"


Image = TypeVar("Image", bound=Encoded)
Text = TypeVar("Text", bound=Encoded)


class Network(Protocol[Image, Text]):
    """A loaded model with its vocabulary; used by one thread at a time, under `torch.inference_mode()`.

    Attributes:
        half: as of `Setup`; None for a while, where an image is run again in float32.
    """

    half: torch.dtype | None

    @property
    def device(self) -> torch.device:
        """Return where the model is."""

    @property
    def engine(self) -> str:
        """Return which of its forward passes runs, for a run's file metadata."""

    @property
    def candidates(self) -> int:
        """Boxes of a pair; an image with fewer `positions` cannot be run."""

    @property
    def boxes(self) -> Literal["cxcywh", "xyxy"]:
        """The frame of its boxes: center and size, or two corners."""

    @property
    def least_side(self) -> int:
        """Pixels; an image with a shorter side is padded, and no CUDA graph is recorded of it."""

    @property
    def recordable(self) -> bool:
        """Return whether its forward pass may be recorded as a CUDA graph: nothing in it waits for the device."""

    @property
    def kept(self) -> object:
        """Return what the last forward pass read of what is kept between forward passes, and may be dropped."""

    @property
    def pass_parts(self) -> tuple[str, ...]:
        """The parts of a profile that are paid once a pass, in the order of a forward pass."""

    def encode_text(self) -> Text:
        """Return all passes' text; asked for once in a worker's life."""

    def start(self, text: Text) -> str:
        """Called once, with that text: settles which forward runs, and says how it compares with float32.

        Raises:
            Refused: the model does not run here.
        """

    def encode_image(self, pixels: Tensor) -> Image:
        """Return features of normalized images of one size, (images, 3, h, w) float32."""

    def positions(self, image: Image) -> int:
        """Return places in each of these images that a candidate may come from."""

    def detect(self, image: Image, text: Text) -> Scored:
        """Row i is image i with pass i."""

    def instrumented(self, ranges: Ranges) -> AbstractContextManager[None]:
        """Return a context in which its parts are ranges: `BACKBONE`, and `pass_parts`."""


@runtime_checkable
class NarrowNetwork(Protocol):
    """A network that can be asked for some of its plan's categories alone."""

    def encode_names(self, plan: PromptPlan) -> Any:
        """Return the text of a plan that `Narrower.narrow` made of its own, as `encode_text` makes
        that of the whole.
        """


class ModelNetwork(ABC):
    """The common part of networks that run transformers' own forward pass: a `Network[Rows, Rows]`.

    Encoding goes through `autocast`; boxes and scores are computed in float32, behind it.
    """

    boxes: ClassVar[Literal["cxcywh", "xyxy"]] = "cxcywh"
    engine: ClassVar = "transformers"
    least_side: ClassVar = 1
    recordable: ClassVar = False
    kept: ClassVar[object] = None
    pass_parts: ClassVar[tuple[str, ...]] = ("heads",)

    def __init__(self, model: Any, plan: PromptPlan, setup: Setup) -> None:
        """
        Args:
            model: transformers' model, float32 and in eval mode.
            plan: of the family.
        """
        self.model, self.plan, self.setup, self.half = model, plan, setup, setup.half
        self.device: torch.device = next(model.parameters()).device

    @property
    @abstractmethod
    def candidates(self) -> int:
        """Boxes of a pair."""

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Rows:
        """As of `Network`."""

    @abstractmethod
    def detect(self, image: Rows, text: Rows) -> Scored:
        """As of `Network`."""

    def encode_text(self) -> Rows:
        """Return nothing, for each pass: a model that reads text overrides this."""
        return Rows((torch.empty(self.plan.passes, 0, device=self.device),))

    def positions(self, image: Rows) -> int:
        return self.candidates

    def start(self, text: Rows) -> str:
        from labeler.detectors.start_check import check_start

        return check_start(self, text, self.setup)

    def autocast(self) -> torch.autocast:
        """Matrix products in `half`, if that is asked for."""
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    @contextmanager
    def instrumented(self, ranges: Ranges) -> Iterator[None]:
        parts = (("encode_image", BACKBONE), ("detect", self.pass_parts[0]))
        with ExitStack() as stack:
            for method, part in parts:
                stack.enter_context(replaced(self, method, ranges.within(part, getattr(self, method))))
            yield


class _MakesNetwork(Protocol):
    def __call__(self, model: Any, plan: PromptPlan, setup: Setup) -> Network[Any, Any]: ...


def make_network(family: Family, model: Any, plan: PromptPlan, setup: Setup) -> Network[Any, Any]:
    """Return the family's network around a loaded model. Refused where its module cannot be imported, or the plan not
    used.
    """
    module, _, name = family.network.partition(":")
    try:
        make = cast(_MakesNetwork, getattr(import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise Refused(f"the network of the detector family {family.name}, {family.network}: {error}") from error
    return make(model, plan, setup)
