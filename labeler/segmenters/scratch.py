"""Make checkpoints of the SAM family without any download: for tests and benchmarks. Their masks mean nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from labeler.detectors.loading import no_progress_bars
from labeler.prompts.image_rule import IMAGENET_MEAN, IMAGENET_STD
from labeler.segmenters.checkpoint import DEFAULT_SIDE, FAMILIES

TINY_SIDE = 128
_WIDTH = 32  # of the tiny ones


def create_segmenter(
    folder: str | Path, *, family: str = "sam", size: str = "tiny", seed: int = 0, redraw: bool = True
) -> Path:
    """Write a complete checkpoint in transformers' layout; nothing is fetched.

    Args:
        folder: made if missing.
        family: "sam", "sam_hq", "sam2" or "sam2_video", config.json's model_type.
        size: "tiny" (input of 128 pixels, below 0.3 M parameters) or "base" (transformers' defaults: SAM ViT-B, SAM-HQ
            ViT-B, SAM 2 Hiera-T).
        seed: of the weights.
        redraw: draw every single parameter. Fresh models start with positions of 0, so that errors there would not
            show.

    Returns:
        The folder.
    """
    import transformers

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    class_name = "Sam2VideoModel" if family == "sam2_video" else FAMILIES[family]
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**(_tiny(family) if size == "tiny" else {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
    if redraw:
        _redraw(model, seed)
    with no_progress_bars():
        model.save_pretrained(folder)
    settings = _image_processor(family, TINY_SIDE if size == "tiny" else DEFAULT_SIDE)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def _tiny(family: str) -> dict[str, Any]:
    prompts = {"hidden_size": _WIDTH, "image_size": TINY_SIDE, "patch_size": 16}
    decoder = {"hidden_size": _WIDTH, "mlp_dim": 2 * _WIDTH, "num_attention_heads": 2, "iou_head_hidden_dim": _WIDTH}
    if family in ("sam", "sam_hq"):
        vision: dict[str, Any] = {
            "hidden_size": _WIDTH,
            "output_channels": _WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": TINY_SIDE,
            "window_size": 3,  # 8 positions a side: windows have to be padded, as in the large models
            "global_attn_indexes": [1, 2],
            "num_pos_feats": _WIDTH // 2,
        }
        decoder |= {"vit_dim": _WIDTH} if family == "sam_hq" else {}
    else:
        vision = {
            "backbone_config": {"model_type": "sam2_hiera_det_model", **_tiny_hiera()},
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": _WIDTH,
        }
    return {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder} | (
        _tiny_video() if family == "sam2_video" else {}
    )


def _tiny_hiera() -> dict[str, Any]:
    return {
        "hidden_size": 8,
        "image_size": [TINY_SIDE, TINY_SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 2, 4, 2],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
    }


def _tiny_video() -> dict[str, Any]:
    return {
        "image_size": TINY_SIDE,
        "memory_attention_hidden_size": _WIDTH,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": _WIDTH,
        "memory_attention_rope_feat_sizes": [8, 8],
        "memory_encoder_hidden_size": _WIDTH,
        "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": _WIDTH,
        "memory_fuser_embed_dim": _WIDTH,
        "memory_fuser_intermediate_dim": _WIDTH,
    }


@torch.no_grad()
def _redraw(model: Any, seed: int) -> None:
    """Normal values at scales that keep activations away from 0, and logits on both sides of it."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if b.is_floating_point()}}
    for name, values in sorted(drawn.items()):
        noise = torch.randn(values.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values.copy_(1 + 0.2 * noise)
        elif values.dim() < 2:  # biases
            values.copy_(0.2 * noise)
        elif name.endswith(("pos_embed", "pos_embed_window", "rel_pos_h", "rel_pos_w", "memory_embedding")) or (
            "embed" in name and name.endswith("weight") and "projection" not in name and values.dim() == 2
        ):  # looked up or added, not multiplied
            values.copy_(0.5 * noise)
        elif name.endswith("positional_embedding"):  # frequencies
            values.copy_(noise)
        elif "iou_prediction_head" in name:  # expected IoUs that differ from each other
            values.copy_(2 * noise / math.sqrt(values[0].numel()))
        else:
            values.copy_(1.5 * noise / math.sqrt(values[0].numel()))


def _image_processor(family: str, side: int) -> dict[str, Any]:
    keeps_aspect = family in ("sam", "sam_hq")
    square = {"height": side, "width": side}
    return {
        "image_processor_type": "SamImageProcessor" if keeps_aspect else "Sam2ImageProcessorFast",
        "do_resize": True,
        "size": {"longest_edge": side} if keeps_aspect else square,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        **({"do_pad": True, "pad_size": square} if keeps_aspect else {}),
    }
