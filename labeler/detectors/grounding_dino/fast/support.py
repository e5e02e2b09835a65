"""Whether the fast engine understands a model: the parts it was written against have to be there, of these shapes."""

from __future__ import annotations

from typing import Any

from torch import nn

_FUSION = ("vision_proj", "text_proj", "values_vision_proj", "values_text_proj", "out_vision_proj", "out_text_proj")
_DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_ATTENTION = ("query", "key", "value", "out_proj")


def why_unsupported(detector: Any) -> str | None:
    """Return why this model has to run on transformers' own forward pass, in a few words; None if it need not."""
    try:
        return _missing(detector)
    except AttributeError as error:
        return f"this version of transformers builds it otherwise: {error}"


def _missing(detector: Any) -> str | None:
    model, config = detector.model, detector.config
    if not config.decoder_bbox_embed_share and len(detector.bbox_embed) != config.decoder_layers:
        return "its box heads are not one per decoder layer"
    for layer in model.encoder.layers:
        attention, deformable = layer.fusion_layer.attn, layer.deformable_layer.self_attn
        problem = (
            _not_linear(attention, _FUSION)
            or _not_linear(deformable, _DEFORMABLE)
            or _not_linear(layer.text_enhancer_layer.self_attn, _ATTENTION)
        )
        if problem:
            return problem
    for layer in model.decoder.layers:
        problem = (
            _not_linear(layer.encoder_attn, _DEFORMABLE)
            or _not_linear(layer.self_attn, _ATTENTION)
            or _not_linear(layer.encoder_attn_text, _ATTENTION)
        )
        if problem:
            return problem
    return None


def _not_linear(module: Any, names: tuple[str, ...]) -> str | None:
    for name in names:
        layer = getattr(module, name)
        if type(layer) is not nn.Linear or layer.bias is None:
            return f"{type(module).__name__}.{name} is not a linear layer with a bias"
    return None
