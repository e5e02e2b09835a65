"""Does an OWL find the objects? A small OWLv2 learns synthetic shapes by their names, and `labeler label` is evaluated.

    python -m benchmarks.owl_shapes --minutes 60 --out /tmp/owl

From random weights on one CPU core: eight names, scenes of 128 x 128 pixels, the template `{}` alone. OUT/log.jsonl
has the loss and the AP of other scenes every few minutes; OUT/checkpoint is the model as it was then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks import small_shapes
from benchmarks.small_shapes import BATCH, NAMES, SIZE, Drawn
from labeler.checkpoints import resolve
from labeler.config import DetectConfig, ModelConfig, PromptsConfig
from labeler.detectors.batched import BatchedDetector
from labeler.labels.detections import Detections
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.training import shapes
from labeler.training.losses import LossWeights, Targets, detection_loss
from labeler.training.shapes.scenes import draw_scene
from labeler.training.validation import ValidationImage, ValidationSet, measure
from labeler.vocabulary import Category, Vocabulary
from tests.clip_files import write_clip_files

SCENES = 5000
VALIDATION_SEED, VALIDATION_SCENES, VALIDATION_SECONDS = 77, 60, 240
LR = 1e-3
PATCH, WIDTH, LAYERS, TEXT_WIDTH = 8, 128, 5, 64
TEMPLATE = "{}"
# While an object teaches several places their boxes, boxes are learned faster; then one place has it alone.
PLACES_AT_FIRST, AT_FIRST = 3, 0.4
WEIGHTS = LossWeights()
OBJECTNESS = LossWeights(bbox=0.0, giou=0.0)  # names nothing and moves no box


def make_model(tokens: int) -> Any:
    """OWLv2 with 256 places and random weights, but for the positions (sines) and the heads' first guess (nothing)."""
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "image_size": SIZE, "patch_size": PATCH,
    }  # fmt: skip
    text = {
        "hidden_size": TEXT_WIDTH, "intermediate_size": 2 * TEXT_WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": tokens, "max_position_embeddings": 16,
        "bos_token_id": tokens - 2, "eos_token_id": tokens - 1,
    }  # fmt: skip
    model: Any = transformers.Owlv2ForObjectDetection(
        transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=TEXT_WIDTH)
    )
    with torch.no_grad():
        side = SIZE // PATCH
        model.owlv2.vision_model.embeddings.position_embedding.weight[1:] = 0.3 * _sines(side, WIDTH)
        for head in (model.class_head, model.box_head, model.objectness_head):  # transformers draws them with 1
            for weight in head.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=(0.1 if len(weight) < TEXT_WIDTH else 1.0) * weight.shape[1] ** -0.5)
        model.class_head.logit_scale.bias.fill_(9.0)
        model.class_head.logit_shift.bias.fill_(-0.5)
        model.objectness_head.dense2.bias.fill_(-4.0)
    return model


def _sines(side: int, width: int) -> Tensor:
    """(side * side, width): where a place is, a quarter of the width for each of sine and cosine of y and x."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    frequencies = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (y, x)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], -1)


def prompts_of(folder: Path) -> tuple[Tensor, Tensor]:
    """Token ids and mask of the eight names, (8, tokens) each."""
    tokenizer = ClipTokenizer.load(folder)
    ids = [tokenizer.ids(name) for name in NAMES]
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    return padded, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])


def batch_of(drawn: Drawn, chosen: Any, turn: int, places: int) -> tuple[Tensor, Targets]:
    """Scenes turned or mirrored in one of eight ways; each object stands `places` times among the targets."""
    pixels = drawn.pixels[chosen].float() / 255
    targets = [drawn.targets[i] for i in chosen]
    boxes = [target["boxes"] for target in targets]
    if turn & 1:
        pixels, boxes = pixels.flip(-1), [torch.cat([1 - b[:, :1], b[:, 1:]], -1) for b in boxes]
    if turn & 2:
        pixels, boxes = pixels.flip(-2), [torch.cat([b[:, :1], 1 - b[:, 1:2], b[:, 2:]], -1) for b in boxes]
    if turn & 4:
        pixels, boxes = pixels.transpose(-1, -2), [b[:, [1, 0, 3, 2]] for b in boxes]
    counts = [places * len(b) for b in boxes]
    padded = torch.full((len(boxes), max(counts), 4), 0.5)
    names = torch.zeros(len(boxes), max(counts), len(NAMES))
    for row, (b, target) in enumerate(zip(boxes, targets, strict=True)):
        padded[row, : counts[row]] = b.repeat(places, 1)
        names[row, torch.arange(counts[row]), target["class_labels"].repeat(places)] = 1
    return pixels, Targets(padded, names, tuple(counts))


def look(model: Any, pixels: Tensor, prompts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(images, places, names) logits, (images, places, 4) boxes, (images, places, 1) objectness."""
    map_of_features = model.image_embedder(pixel_values=pixels)[0]
    features = map_of_features.flatten(1, 2)
    text = model.owlv2.get_text_features(input_ids=prompts[0], attention_mask=prompts[1]).pooler_output
    logits = model.class_head(features, text.expand(len(pixels), -1, -1), None)[0]
    return logits, model.box_predictor(features, map_of_features), model.objectness_predictor(features)[..., None]


def loss_of(found: tuple[Tensor, Tensor, Tensor], targets: Targets) -> Tensor:
    logits, boxes, objectness = found
    total = float(sum(targets.counts))
    mask = torch.ones(len(logits), len(NAMES), dtype=torch.bool)
    named, _ = detection_loss(logits[None], boxes[None], mask, targets, WEIGHTS, total)
    thing = Targets(targets.boxes, torch.ones_like(targets.tokens[..., :1]), targets.counts)
    there, _ = detection_loss(objectness[None], boxes[None].detach(), mask[:, :1], thing, OBJECTNESS, total)
    return named + there


class Journal:
    """The checkpoint and the log of a training, written every few minutes, so you can look at it during training."""

    def __init__(self, model: Any, out: Path) -> None:
        """Start a log of a training.

        Args:
            model: its tokenizer's files are already in `out/checkpoint`.
        """
        self._model, self._out = model, out
        self._data = drawn_set(VALIDATION_SEED, VALIDATION_SCENES)  # not for training, not for the final evaluation
        self._saved = self._begun = time.perf_counter()

    def keep(self, step: int, loss: float, *, last: bool = False) -> None:
        """Save and measure if it is time."""
        if not last and time.perf_counter() - self._saved < VALIDATION_SECONDS:
            return
        checkpoint = self._out / "checkpoint"
        self._model.eval().save_pretrained(checkpoint)
        self._model.train()
        minutes = (time.perf_counter() - self._begun) / 60
        found = found_in(self._data, checkpoint, self._data.vocabulary)
        row = {"minutes": round(minutes, 1), "cpu_minutes": round(time.process_time() / 60, 1)}
        row |= {"step": step, "loss": round(loss, 3), **measure(self._data, found)}
        print(json.dumps(row), flush=True)
        with (self._out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        self._saved = time.perf_counter()

    def rows(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self._out / "log.jsonl").read_text().splitlines()]


def drawn_set(seed: int, scenes: int, names: Sequence[str] = NAMES) -> ValidationSet:
    """Write scenes with their ground truth."""
    chosen = shapes.select(names)
    drawn = [draw_scene(seed, i, sizes=[(SIZE, SIZE)], combinations=chosen) for i in range(scenes)]
    images = tuple(ValidationImage(s.image, s.boxes_xyxy, s.category_ids.astype(np.int64)) for s in drawn)
    vocabulary = Vocabulary("names", tuple(Category(c.category_id, c.name, (c.name,)) for c in chosen))
    return ValidationSet(images, vocabulary, {"all": frozenset(c.category_id for c in chosen)})


def found_in(data: ValidationSet, folder: Path, vocabulary: Vocabulary, *, floor: float = 0.0) -> list[Detections]:
    """What a checkpoint finds in them of a vocabulary."""
    checkpoint = resolve(folder)
    model, prompts = ModelConfig(name=str(folder), device="cpu"), PromptsConfig(templates=(TEMPLATE,))
    plan = checkpoint.family.planner(folder, model).plan(vocabulary, prompts)
    detector = BatchedDetector(checkpoint, plan, model=model, detect=DetectConfig(score_floor=floor), threads=1)
    return detector.detect([image.pixels for image in data.images])


def train(model: Any, drawn: Drawn, minutes: float, out: Path) -> list[dict[str, float]]:
    """Train for this long; returns the rows of the log."""
    prompts = prompts_of(out / "checkpoint")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    model.train()
    journal = Journal(model, out)
    start, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        chosen = rng.choice(len(drawn.targets), BATCH, replace=False)
        places = PLACES_AT_FIRST if done < AT_FIRST else 1
        pixels, targets = batch_of(drawn, chosen, int(rng.integers(8)), places)
        loss = loss_of(look(model, pixels, prompts), targets)
        small_shapes.learn(model, loss, optimizer, LR, step, done)
        step += 1
        journal.keep(step, loss.item())
    journal.keep(step, loss.item(), last=True)
    return journal.rows()


def train_and_judge(minutes: float, out: Path) -> dict[str, Any]:
    checkpoint = out / "checkpoint"
    checkpoint.mkdir()
    small_shapes.save_image_settings(checkpoint)
    model = make_model(write_clip_files(checkpoint, " ".join(NAMES).split()))
    log = train(model, small_shapes.draw(SCENES), minutes, out)
    settings = {"vocabulary": list(NAMES), "prompts": {"templates": [TEMPLATE]}}
    return {
        "steps": log[-1]["step"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "log": log,
        "held_out_scenes": small_shapes.HELD_OUT,
        "evaluation": small_shapes.judge(out, settings),
    }


def main() -> None:
    small_shapes.run(__doc__, "owl", 60.0, train_and_judge)


if __name__ == "__main__":
    main()
