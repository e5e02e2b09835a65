"""The network of detectors with labels of their own: transformers' forward, and the columns of its scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from labeler.detectors.network import ModelNetwork, Rows, Scored, Setup
from labeler.prompts import PromptPlan
from labeler.prompts.closed_set.family import ColumnPlan
from labeler.prompts.closed_set.kinds import KINDS

# What scores and boxes come out of, in transformers' models: few products, but a pixel of 640 is lost in half.
_SCORE_HEADS = {"class_embed", "class_labels_classifier", "enc_score_head", "enc_out_class_embed", "lqe_layers"}
_BOX_HEADS = {"bbox_embed", "bbox_predictor", "enc_bbox_head", "enc_out_bbox_embed", "pre_bbox_head", "integral"}
_HEADS = _SCORE_HEADS | _BOX_HEADS
_TOO_FEW = "selected index k out of range"  # torch.topk's words


class ColumnNetwork(ModelNetwork):
    """One forward pass scores every label for a fixed number of boxes; a `Network[Rows, Rows]`.

    A row of its images is (scores (candidates, columns of the plan), boxes (candidates, 4)), both float32.
    """

    def __init__(self, model: Any, plan: PromptPlan, setup: Setup) -> None:
        super().__init__(model, plan, setup)
        assert isinstance(plan, ColumnPlan)
        self._softmax = KINDS[model.config.model_type].softmax
        self._columns = torch.tensor([column.column for column in plan.columns], device=self.device)
        _keep_heads_in_float32(model, self.device.type)

    @property
    def candidates(self) -> int:
        config = self.model.config
        if getattr(config, "two_stage", False):
            return int(config.two_stage_num_proposals)
        return int(getattr(config, "num_detection_tokens", None) or config.num_queries)

    def encode_image(self, pixels: Tensor) -> Rows:
        try:
            with self.autocast():
                out = self.model(pixel_values=pixels)
        except RuntimeError as error:
            if _TOO_FEW not in str(error):
                raise
            return self._too_few(pixels)
        return Rows((self._scores(out.logits.float()), out.pred_boxes.float()))

    def positions(self, image: Rows) -> int:
        return image.tensors[0].shape[1]

    def detect(self, image: Rows, text: Rows) -> Scored:
        return Scored.of(*image.tensors)

    def _scores(self, logits: Tensor) -> Tensor:
        """Return (images, candidates, columns of the plan): the softmax is over all labels, "no object" among them."""
        if self._softmax:
            return logits.softmax(-1)[..., self._columns]
        return logits[..., self._columns].sigmoid()

    def _too_few(self, pixels: Tensor) -> Rows:
        """As many empty rows as the model found places to choose its candidates from: fewer than it asks for."""
        try:
            with self.autocast(), _CountPlaces():
                self.model(pixel_values=pixels)
        except _TooFewPlaces as found:
            places = found.places
        return Rows(
            (pixels.new_zeros(len(pixels), places, len(self._columns)), pixels.new_zeros(len(pixels), places, 4))
        )


class _TooFewPlaces(Exception):
    """A forward pass asked for more of the best than there are.

    Attributes:
        places: that there are.
    """

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self.places = places


class _CountPlaces(TorchFunctionMode):
    """A context that raises `_TooFewPlaces` instead of torch's own error."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if _TOO_FEW not in str(error):
                raise
            dim = (kwargs or {}).get("dim", args[2] if len(args) > 2 else -1)
            raise _TooFewPlaces(args[0].shape[dim]) from None


def _keep_heads_in_float32(model: nn.Module, device: str) -> None:
    """Heads leave autocast: what they compute of half-precision features is float32."""
    for name, module in model.named_modules():
        *path, last = name.split(".")
        listed = isinstance(module, nn.ModuleList)
        if not listed and (last in _HEADS or (last.isdecimal() and path and path[-1] in _HEADS)):
            module.forward = _in_float32(module.forward, device)


def _in_float32(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    def widen(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return forward(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})

    return run
