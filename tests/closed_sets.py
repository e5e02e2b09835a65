"""Small checkpoints of every closed-set model type, each with all of its parameters redrawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

from labeler.detectors.batched import BatchedDetector
from labeler.labeling.recipe import DetectorRecipe
from labeler.prompts.closed_set.kinds import KINDS

LABELS = ("N/A", "circle", "square", "triangle", "traffic light", "LABEL_5")
STRETCH = (64, 96)  # height, width
EDGES = (64, 112)
_QUERIES = 20
_SIZES = [8, 16, 24, 32]


def small_resnet(*stages: str) -> transformers.ResNetConfig:
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=_SIZES,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=list(stages or ("stage4",)),
    )


def _detr(**more: Any) -> dict[str, Any]:
    layers = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    return {
        "use_timm_backbone": False,
        "backbone": None,
        "backbone_config": small_resnet(),
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_queries": _QUERIES,
        **layers,
        **({} if "hidden_size" in more else {"d_model": 64}),
        **more,
    }


def _rt_detr(backbone: Any, points: Any = 2) -> dict[str, Any]:
    return {
        "backbone_config": backbone,
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_in_channels": _SIZES[1:],
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 32,
        "decoder_n_points": points,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "num_queries": _QUERIES,
        "num_denoising": 0,
        "hidden_expansion": 0.5,
    }


def _rt_resnet() -> transformers.RTDetrResNetConfig:
    return transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=_SIZES,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _hgnet() -> transformers.HGNetV2Config:
    return transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=_SIZES,
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        hidden_sizes=_SIZES,
        embedding_size=8,
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )


def _windowed(backbone: Any, **more: Any) -> dict[str, Any]:
    return {
        "backbone_config": backbone,
        "d_model": 32,
        "decoder_ffn_dim": 32,
        "decoder_n_points": 2,
        "decoder_layers": 2,
        "decoder_self_attention_heads": 2,
        "decoder_cross_attention_heads": 2,
        "num_queries": _QUERIES,
        "group_detr": 2,
        **more,
    }


def _vit(make: Any, **more: Any) -> Any:
    return make(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        patch_size=8,
        out_indices=[1, 2],
        **more,
    )


_YOLOS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": list(STRETCH),
    "num_detection_tokens": _QUERIES,
}

SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "detr": _detr,
    "table-transformer": _detr,
    "conditional_detr": _detr,
    "dab-detr": lambda: _detr(hidden_size=32),
    "deformable_detr": lambda: _detr(
        backbone_config=small_resnet("stage2", "stage3", "stage4"),
        with_box_refine=True,
        two_stage=True,
        two_stage_num_proposals=_QUERIES,
        encoder_n_points=2,
        decoder_n_points=2,
    ),
    "yolos": lambda: dict(_YOLOS),
    "rt_detr": lambda: _rt_detr(_rt_resnet()),
    "rt_detr_v2": lambda: _rt_detr(_rt_resnet()),
    "d_fine": lambda: _rt_detr(_hgnet(), [2, 2, 2]),
    "deimv2": lambda: _rt_detr(_hgnet(), [2, 2, 2]),
    "rf_detr": lambda: _windowed(_vit(RfDetrDinov2Config, num_windows=2, num_register_tokens=0)),
    "lw_detr": lambda: _windowed(
        _vit(transformers.LwDetrViTConfig, num_windows=4, pretrain_image_size=64, window_block_indices=[0]),
        projector_scale_factors=[2.0, 1.0],
    ),
}
TYPES = tuple(SETTINGS)
# Image processors of the usual checkpoints: these two lines keep an image's shape.
KEEPS_SHAPE = frozenset({"detr", "table-transformer", "conditional_detr", "dab-detr", "deformable_detr", "yolos"})


def make_checkpoint(target: Path, model_type: str, *, labels: Sequence[str] = LABELS, spread: float = 2) -> Path:
    """A checkpoint whose boxes and scores are distinct enough to be compared, and whose best scores are not tiny."""
    kind = KINDS[model_type]
    config = transformers.AutoConfig.for_model(
        model_type, **SETTINGS[model_type](), id2label=dict(enumerate(labels)), label2id=None
    )
    torch.manual_seed(3)
    model = getattr(transformers, kind.architecture)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            redraw(name, parameter, spread)
    model.save_pretrained(target)
    (target / "preprocessor_config.json").write_text(json.dumps({"size": size_of(model_type)}))
    return target


def redraw(name: str, parameter: torch.Tensor, spread: float) -> None:
    """New values that keep the size of what flows through; heads that spread their scores and boxes."""
    fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
    if "query" in name and "embed" in name:
        parameter.normal_()  # what tells one candidate from another
    elif fan_in:
        parameter.normal_(0, min(1.4 / fan_in**0.5, 1.0))
        if any(head in name for head in ("class_embed", "class_labels_classifier", "score_head")):
            parameter.mul_(spread)
    else:
        parameter.add_(torch.randn_like(parameter), alpha=0.1)


def size_of(model_type: str) -> dict[str, int]:
    if model_type in KEEPS_SHAPE:
        return {"shortest_edge": EDGES[0], "longest_edge": EDGES[1]}
    return {"height": STRETCH[0], "width": STRETCH[1]}


@dataclass(frozen=True)
class Poisoned:
    """Load a job's detector and set its weights to NaN."""

    recipe: DetectorRecipe

    def __call__(self) -> BatchedDetector:
        made = self.recipe()
        with torch.inference_mode():
            next(p for p in made.network.model.parameters() if p.dim() == 4).fill_(float("nan"))
        return made
