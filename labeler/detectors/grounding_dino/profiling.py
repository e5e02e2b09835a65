"""The parts of Grounding DINO's forward, for a profile: either engine's methods become ranges for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.split_forward import SplitForward
from labeler.detectors.network import BACKBONE
from labeler.detectors.ranges import Ranges, Within, replaced

# In the order of a forward pass. Each runs once per pair of image and chunk.
PASS_PARTS = (
    "encoder: fusion",
    "encoder: text",
    "encoder: deformable",
    "encoder: feed-forward",
    "encoder: norms",
    "query selection",
    "decoder",
)


@contextmanager
def instrumented(forward: SplitForward, ranges: Ranges) -> Iterator[None]:
    """The forward pass's parts are ranges meanwhile, named as in `PASS_PARTS`."""
    with ExitStack() as stack:
        for owner, method, name in _methods(forward):
            stack.enter_context(replaced(owner, method, ranges.within(name, getattr(owner, method))))
        if isinstance(forward, FastForward):
            layers = [_fast_layer(layer, ranges) for layer in forward._encoder]
            stack.enter_context(replaced(forward, "_encoder", layers))
        yield


def _methods(forward: SplitForward) -> Iterator[tuple[Any, str, str]]:
    """Yield (object, its method, the part it is) of either engine."""
    yield forward, "encode_image", BACKBONE
    yield forward, "detect", "decoder"  # with the heads; the ranges inside are taken out of it
    if isinstance(forward, FastForward):
        yield forward, "_encode", "encoder: norms"
        yield forward, "_propose", "query selection"
        return
    yield forward, "_select_queries", "query selection"
    encoder = forward.model.encoder
    yield encoder, "forward", "encoder: norms"
    for layer in encoder.layers:
        yield layer.fusion_layer, "forward", "encoder: fusion"
        yield layer.text_enhancer_layer, "forward", "encoder: text"
        yield layer.deformable_layer, "forward", "encoder: feed-forward"  # which is not a module of its own
        yield layer.deformable_layer.self_attn, "forward", "encoder: deformable"


def _fast_layer(layer: Any, ranges: Ranges) -> Any:
    names = {
        "fusion": "encoder: fusion",
        "text_attention": "encoder: text",
        "text_norm": "encoder: text",
        "text_feed": "encoder: text",
        "deformable": "encoder: deformable",
        "feed": "encoder: feed-forward",
    }
    return replace(layer, **{field: Within(getattr(layer, field), name, ranges) for field, name in names.items()})
