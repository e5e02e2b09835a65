"""Make a checkpoint folder with random weights: for tests and trials, where no trained one is at hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labeler.detectors.grounding_dino.wordpiece import write_wordpiece
from labeler.detectors.loading import no_progress_bars
from labeler.errors import Refused
from labeler.prompts import architecture_of
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.prompts.image_rule import IMAGENET_MEAN, IMAGENET_STD
from labeler.storage import read_regular

KINDS = {"original": "grounding-dino", "mm": "mm-grounding-dino"}
_TEXT_MASK_TOKENS = 512  # BERT's position embeddings
_EVEN_WIDTH, _EVEN_DEPTH = 32, 2  # of the smallest size, which is left as it is drawn
_BRANCH_END = re.compile(r"(output\.dense|out_proj|output_proj|out_vision_proj|out_text_proj|\.fc2)\.(weight|bias)$")


@dataclass(frozen=True)
class Size:
    """The size of a model. `d_model` is a multiple of 32 (group norms); fusion heads are `d_model` wide, as in the
    published models, because the feed-forward layers are 8 times `d_model` and shared by 8 heads.
    """

    d_model: int = 32
    layers: int = 2  # of the encoder, and of the decoder; at least 2, or transformers finds no heads to tie
    queries: int = 20
    backbone: str = "swin"  # or "convnext", which learns faster from nothing and is cheaper on a CPU
    backbone_width: int = 16
    backbone_depths: tuple[int, ...] = (1, 1, 1, 1)
    backbone_heads: tuple[int, ...] = (1, 2, 2, 4)
    window: int = 4
    text_width: int = 32
    text_layers: int = 2
    text_heads: int = 2
    image_size: tuple[int, int] = (128, 224)


SIZES = {
    "tiny": Size(),
    "small": Size(64, 3, 100, "swin", 32, (1, 1, 2, 1), (1, 2, 4, 8), 7, 64, 2, 4, (224, 384)),
    # Grounding DINO-T: Swin-T and BERT-base, transformers' own defaults
    "full": Size(256, 6, 900, "swin", 96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 768, 12, 12, (800, 1333)),
}


def create_checkpoint(
    folder: str | Path,
    *,
    words: Iterable[str] = (),
    vocab_file: str | Path | None = None,
    kind: str = "mm",
    size: str | Size = "tiny",
    seed: int = 0,
    redraw: bool = False,
) -> Path:
    """Write a complete checkpoint in transformers' layout; nothing is fetched.

    Args:
        folder: made if missing; files of an earlier checkpoint in it are overwritten.
        words: names the tokenizer knows as whole words; others fall to single characters.
        vocab_file: a BERT vocab.txt to use instead of `words`.
        kind: "original" (GroundingDinoForObjectDetection) or "mm" (MMGroundingDinoForObjectDetection).
        size: "tiny" (0.7 M parameters), "small" (3 M), "full" (172 M: Grounding DINO-T), or a Size of your own.
        seed: of the weights.
        redraw: draw every single parameter. Fresh models start with fusion gates of 1e-4 and offsets and last box
            layers of 0, so that errors in these parts would not show.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = SIZES[size] if isinstance(size, str) else size
    if vocab_file is None:
        write_wordpiece(folder, words)
    else:
        (folder / "tokenizer.json").unlink(missing_ok=True)  # an earlier one would be read first
        try:
            words_read = read_regular(vocab_file)
        except (OSError, ValueError) as error:
            raise Refused(f"{vocab_file} cannot be read: {error}; give a BERT vocab.txt") from None
        (folder / "vocab.txt").write_bytes(words_read)
    Tokenizer.load(folder)  # refuses a vocabulary that the model's masks would not understand
    tokens = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    model = _new_model(kind, shape, tokens, seed)
    if redraw:
        _redraw(model, seed)
        _even_out(model, shape, original=kind == "original")
    with no_progress_bars():
        model.save_pretrained(folder)
    _write_image_processor(folder, shape.image_size)
    return folder


def _new_model(kind: str, size: Size, tokens: int, seed: int) -> Any:
    import transformers

    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind}")
    backbone = _backbone_config(size)
    text = transformers.BertConfig(
        vocab_size=tokens,
        hidden_size=size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        intermediate_size=4 * size.text_width,
        max_position_embeddings=_TEXT_MASK_TOKENS,
    )
    model_class = getattr(transformers, architecture_of(KINDS[kind]))
    config = model_class.config_class(
        backbone_config=backbone,
        text_config=text,
        d_model=size.d_model,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_ffn_dim=8 * size.d_model,
        decoder_ffn_dim=8 * size.d_model,
        num_queries=size.queries,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).eval()


def _backbone_config(size: Size) -> Any:
    import transformers

    width, depths = size.backbone_width, list(size.backbone_depths)
    if size.backbone == "convnext":
        return transformers.ConvNextConfig(
            hidden_sizes=[width * 2**stage for stage in range(len(depths))],
            depths=depths,
            layer_scale_init_value=1.0,  # the default of 1e-6 is for networks ten times as deep
            out_indices=[2, 3, 4],
        )
    if size.backbone != "swin":
        raise ValueError(f"backbone is swin or convnext, got {size.backbone}")
    return transformers.SwinConfig(
        embed_dim=width,
        depths=depths,
        num_heads=list(size.backbone_heads),
        window_size=size.window,
        out_indices=[2, 3, 4],
    )


@torch.no_grad()
def _redraw(model: Any, seed: int) -> None:
    """Normal values at scales that keep activations, logits and boxes away from 0 and from saturation."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "bbox_embed" in name and ".layers.2." in name:  # last layers: a change of a logit, added up over the decoder
            parameter.copy_(0.1 * noise)
        elif name.endswith("sampling_offsets.bias"):  # in positions of each level
            parameter.copy_(noise)
        elif name.endswith(("vision_param", "text_param")):  # the fusion gates
            parameter.copy_(0.5 + 0.2 * noise)
        elif "norm" in name.lower() and name.endswith("weight"):
            parameter.copy_(1 + 0.2 * noise)
        elif parameter.dim() < 2:  # biases
            parameter.copy_(0.2 * noise)
        elif name.endswith(("embeddings.weight", "level_embed", "bias_table")):  # looked up, not multiplied
            parameter.copy_(0.5 * noise)
        else:
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))


@torch.no_grad()
def _even_out(model: Any, size: Size, *, original: bool) -> None:
    """Scale what adds up with width and depth, so that all sizes spread logits and boxes as the smallest does.

    If every branch of a deep model adds as much as its input has, the differences between tokens and between queries
    vanish in what all of them get. All words then have one score, and all boxes one place.
    """
    narrow = math.sqrt(_EVEN_WIDTH / size.d_model)
    last_text = f"encoder.layers.{size.layers - 1}.text_enhancer_layer.layer_norm_after."
    for name, parameter in model.named_parameters():
        if "bbox_embed" in name and name.endswith(".layers.2.weight"):
            parameter.mul_(narrow)
        elif _BRANCH_END.search(name) and "model.backbone." not in name:
            depth = size.text_layers if "text_backbone" in name else size.layers
            parameter.mul_(min(1.0, _EVEN_DEPTH / depth))
        elif original and last_text in name:  # its logits are plain sums over the width; the other kind's are means
            parameter.mul_(narrow)


def _write_image_processor(folder: Path, image_size: tuple[int, int]) -> None:
    config = {
        "image_processor_type": "GroundingDinoImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size[0], "longest_edge": image_size[1]},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_pad": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
