"""A small SAM 3 with every parameter drawn at random, and its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

SIDE, QUERIES, WORDS = 112, 12, 100
PHRASES = ((1, "cat", (1, 5, 2)), (2, "traffic light", (1, 6, 7, 2)), (3, "bus", (1, 8, 2)), (3, "coach", (1, 9, 2)))


def sam3_config() -> Any:
    """8 x 8 cells of 14 pixels, one window of 4 x 4 and one layer over all; 12 queries; 100 words."""
    width = {"hidden_size": 32, "num_attention_heads": 2}
    wide = {**width, "intermediate_size": 64}
    backbone = {
        **wide, "model_type": "sam3_vit_model", "num_hidden_layers": 2, "image_size": SIDE, "patch_size": 14,
        "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56,
    }  # fmt: skip
    words = {
        **wide, "model_type": "clip_text_model", "vocab_size": WORDS, "projection_dim": 32, "num_hidden_layers": 2,
        "max_position_embeddings": 32, "hidden_act": "gelu", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return transformers.Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32},
        text_config=words,
        geometry_encoder_config={**wide, "num_layers": 1},
        detr_encoder_config={**wide, "num_layers": 2},
        detr_decoder_config={**wide, "num_layers": 2, "num_queries": QUERIES},
        mask_decoder_config=width,
    )


def redraw(model: torch.nn.Module, *, seed: int = 3) -> None:
    """Draw every parameter, none as it is initialized: zeros and ones would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.15
            parameter.copy_(drawn + 1 if name.endswith("norm.weight") else drawn)


def sam3_model(*, seed: int = 3) -> Any:
    model = transformers.Sam3Model(sam3_config())
    redraw(model, seed=seed)
    return model.eval()


def sam3_checkpoint(folder: Path, model: Any = None) -> Path:
    """Save a model, the drawn one if none is given, with the settings of its images."""
    (model or sam3_model()).save_pretrained(folder)
    size = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(size))
    return folder
