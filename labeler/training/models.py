"""The model a job starts from, and the checkpoint folder that a trained one becomes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from labeler import checkpoints
from labeler.checkpoints import IMAGE_PROCESSOR, TOKENIZER, DetectorCheckpoint
from labeler.detectors.grounding_dino.scratch import KINDS, Size, create_checkpoint
from labeler.detectors.loading import no_progress_bars
from labeler.errors import Refused
from labeler.prompts import architecture_of
from labeler.prompts.families import DEFAULT as GROUNDING_DINO
from labeler.training.config import NewModel, StudentConfig
from labeler.vocabulary import Vocabulary


def start_checkpoint(config: StudentConfig, vocabulary: Vocabulary, folder: Path, *, seed: int) -> DetectorCheckpoint:
    """Return the checkpoint that training starts from; a new one is made in `folder`.

    Raises:
        Refused: whatever is wrong with it.
    """
    if config.new is not None:
        words = config.new.words or tuple(p for c in vocabulary.categories for p in c.phrases)
        if not _in_group() or distributed.get_rank() == 0:  # save_pretrained writes nothing in any other worker
            _create(config.new, folder, words, config.image_size, seed)
        _share(folder)
        return checkpoints.resolve(folder)
    found = checkpoints.resolve(str(config.name), revision=config.revision)
    if found.family != GROUNDING_DINO:
        raise Refused(
            f"checkpoint {found.name} is of the family {found.family.name}; only {GROUNDING_DINO.name} can be trained"
        )
    return found


def write_checkpoint(detector: Any, start: DetectorCheckpoint, folder: Path, image_size: tuple[int, int]) -> None:
    """Write weights and config of `detector` with the tokenizer and image settings of the checkpoint it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    with no_progress_bars():
        detector.save_pretrained(folder)
    for name in (*TOKENIZER, *IMAGE_PROCESSOR):
        if (start.folder / name).is_file():
            shutil.copyfile(start.folder / name, folder / name)
    if image_size != start.rule.size:
        _set_image_size(folder, image_size)


def _in_group() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _share(folder: Path) -> None:
    """The first worker's files for all of them."""
    if not _in_group():
        return
    first = distributed.get_rank() == 0
    box = [{file.name: file.read_bytes() for file in folder.iterdir()} if first else {}]
    distributed.broadcast_object_list(box, src=0)
    for name, data in box[0].items():
        (folder / name).write_bytes(data)


def _set_image_size(folder: Path, image_size: tuple[int, int]) -> None:
    settings = {**checkpoints.image_processor_config(folder)}
    settings["size"] = {"shortest_edge": image_size[0], "longest_edge": image_size[1]}
    (folder / IMAGE_PROCESSOR[1]).unlink(missing_ok=True)
    (folder / IMAGE_PROCESSOR[0]).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _create(new: NewModel, folder: Path, words: Iterable[str], image_size: tuple[int, int] | None, seed: int) -> None:
    import transformers

    if isinstance(new.size, str):
        size: str | Size = new.size
    else:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in new.size.items()}
        try:
            size = Size(**fields)
        except TypeError as error:
            raise Refused(f"model.new.size: {str(error).replace('Size.__init__() ', '')}") from None
    create_checkpoint(folder, words=words, vocab_file=new.vocab_file, kind=new.kind, size=size, seed=seed)
    model_class = getattr(transformers, architecture_of(KINDS[new.kind]))
    if new.config:
        config = model_class.config_class.from_pretrained(folder)
        unknown = sorted(set(new.config) - set(config.to_dict()))
        if unknown:
            raise Refused(f"model.new.config: transformers' {type(config).__name__} has no {', '.join(unknown)}")
        for name, value in new.config.items():
            setattr(config, name, value)
        with torch.random.fork_rng(devices=[]), no_progress_bars():
            torch.manual_seed(seed)
            model_class(config).save_pretrained(folder)
    if image_size is not None:
        _set_image_size(folder, image_size)
