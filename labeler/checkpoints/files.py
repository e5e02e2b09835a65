"""The names of the files that make a checkpoint, in transformers' layout."""

from __future__ import annotations

CONFIG = "config.json"
IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = (
    "tokenizer.json",
    "vocab.txt",  # BERT's
    "vocab.json",  # CLIP's, with
    "merges.txt",
    "spiece.model",  # SentencePiece's
    "tokenizer_config.json",
    "special_tokens_map.json",
)
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
