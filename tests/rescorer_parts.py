"""Tiny CLIP and SigLIP checkpoints with every parameter drawn, their tokenizers, and transformers' own answers."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.clip_files import write_clip_files
from tests.sam3_model import redraw

KINDS = ("clip", "siglip", "siglip2")
SIDE = 32
LENGTH = 64  # of SigLIP's filled prompts
WORDS = ("cat", "dog", "traffic light", "red", "blue", "circle", "square", "triangle", "a", "photo", "of", "background")
_WIDE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}


@cache
def tiny_rescorer(kind: str, seed: int = 3) -> Path:
    """A folder with a checkpoint; do not change what is in it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-rescorer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_rescorer(folder, kind, seed)


def write_rescorer(folder: Path, kind: str, seed: int = 3) -> Path:
    view = {**_WIDE, "image_size": SIDE, "patch_size": 8}
    if kind == "clip":
        tokens = write_clip_files(folder, WORDS)
        words: dict[str, Any] = {**_WIDE, "vocab_size": tokens, "max_position_embeddings": 32}
        words |= {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1}
        config = transformers.CLIPConfig(text_config=words, vision_config=view, projection_dim=32)
        model: Any = transformers.CLIPModel(config)
        settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    else:
        tokens = write_t5_files(folder) if kind == "siglip" else write_gemma_files(folder)
        words = {**_WIDE, "vocab_size": tokens, "max_position_embeddings": LENGTH, "projection_size": 32}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=words, vision_config=view))
        settings = {"size": {"height": SIDE, "width": SIDE}}
    redraw(model, seed=seed)
    with torch.no_grad():
        model.logit_scale.fill_(3.1)  # a drawn one would give all categories the same score
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def write_t5_files(folder: Path) -> int:
    """A tokenizer.json of SigLIP's kind: a unigram model with `</s>` as its end and its filling; returns its size."""
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz"),
    )
    learned.train_from_iterator([word for word in WORDS for _ in range(3)], trainer)
    learned.save(str(folder / "tokenizer.json"))
    return int(learned.get_vocab_size())


def write_gemma_files(folder: Path) -> int:
    """The files of SigLIP 2's tokenizer, as transformers saves them; returns its size."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [*"abcdefghijklmnopqrstuvwxyz▁.'"]
    vocab = {token: number for number, token in enumerate([*specials, *letters, "ca", "cat", "do", "dog"])}
    merges = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g")]
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    return len(vocab)


def stock_tokens(kind: str, folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """What the checkpoint's own tokenizer makes of texts, filled as in training."""
    if kind == "clip":
        tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(folder)
        return dict(tokenizer(list(texts), padding=True, return_tensors="pt"))
    if kind == "siglip2":
        tokenizer = transformers.Siglip2Tokenizer.from_pretrained(folder)
        plain = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
        pad = tokenizer.pad_token_id
    else:  # transformers' SiglipTokenizer needs SentencePiece
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        pad = tokenizer.token_to_id("</s>")
        plain = [[*tokenizer.encode(text, add_special_tokens=False).ids, pad] for text in texts]
    return {"input_ids": torch.tensor([ids + [pad] * (LENGTH - len(ids)) for ids in plain])}


def stock_pixels(kind: str, folder: Path, crop: np.ndarray) -> torch.Tensor:
    """(1, 3, side, side) of a crop, by the checkpoint's own Pillow image processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil
    found: torch.Tensor = processor.from_pretrained(folder)(crop, return_tensors="pt")["pixel_values"]
    return found


def stock_logits(kind: str, folder: Path, crops: Sequence[np.ndarray], texts: Sequence[str]) -> torch.Tensor:
    """(crops, texts) logits by the model's whole forward pass, one crop at a time."""
    model_class = transformers.CLIPModel if kind == "clip" else transformers.SiglipModel
    model: Any = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    words = stock_tokens(kind, folder, texts)
    with torch.inference_mode():
        rows = [model(pixel_values=stock_pixels(kind, folder, crop), **words).logits_per_image for crop in crops]
    return torch.cat(rows)
