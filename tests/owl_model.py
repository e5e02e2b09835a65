"""A small OWL-ViT or OWLv2 with every parameter drawn at random, and its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import transformers

from tests.clip_files import write_clip_files
from tests.sam3_model import redraw

Kind = Literal["owl-vit", "owlv2"]
KINDS: tuple[Kind, ...] = ("owl-vit", "owlv2")
SIDE = 96  # of its images; 6 x 6 positions
NAMES = ("cat", "dog", "traffic light", "bus")
WORDS = (*NAMES, "itap", "photo", "large", "small", "video", "game", "bad", "origami", "the", "art", "of")


def owl_model(kind: Kind, tokens: int, *, seed: int = 3) -> Any:
    wide = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
    words = {**wide, "vocab_size": tokens, "max_position_embeddings": 16}
    words |= {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1}
    view = {**wide, "image_size": SIDE, "patch_size": 16}
    of_config, of_model = (
        (transformers.OwlViTConfig, transformers.OwlViTForObjectDetection)
        if kind == "owl-vit"
        else (transformers.Owlv2Config, transformers.Owlv2ForObjectDetection)
    )
    model = of_model(of_config(text_config=words, vision_config=view, projection_dim=32))
    redraw(model, seed=seed)
    return model.eval()


def owl_checkpoint(folder: Path, kind: Kind, *, seed: int = 3, whole: bool = False, words: Any = WORDS) -> Path:
    """Save such a model with CLIP's files (`whole`: a tokenizer.json), and the settings of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    owl_model(kind, write_clip_files(folder, words, whole=whole), seed=seed).save_pretrained(folder)
    settings: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
