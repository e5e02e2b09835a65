"""What is a second opinion worth? A tiny CLIP learns crops of synthetic shapes and rescores boxes of models/shapes.

    python -m benchmarks.rescore_shapes --minutes 8 --out /tmp/rescore --output benchmarks/results/rescore-shapes.json

The CLIP has random weights at first and sees the 66 names that models/shapes was trained on, never the 14 held-out
ones. Both judge scenes of all 80 names. The fusion is fitted on other scenes than those that are judged.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml

from benchmarks.machine import machine
from labeler.cli import main as labeler
from labeler.config import make_config
from labeler.detectors.loading import no_progress_bars
from labeler.evaluation import evaluate_run
from labeler.labels.chosen_score import ChosenScore
from labeler.labels.detections import Detections
from labeler.rescorers import resolve_rescorer
from labeler.rescorers.forward import DualEncoder
from labeler.rescorers.preprocess import CropRule
from labeler.rescorers.texts import Texts, make_texts
from labeler.runs import Run, require_run
from labeler.runs.fitted_on import fused_score
from labeler.training import shapes
from labeler.training.shapes.scenes import draw_scene
from labeler.vocabulary import Category, Vocabulary
from tests.clip_files import write_clip_files
from tests.labeled_here import label_here, rescore_here

SIDE, PATCH, WIDTH, LAYERS, TEXT_WIDTH = 32, 4, 96, 3, 64
TRAINING_SEED, FITTED_SEED, JUDGED_SEED = 501, 502, 503
BATCH, LR, MARGIN = 96, 1.5e-3, 0.1
BACKGROUND_SHARE = 0.15  # of the crops that learn, without an object
SCORES = ("score", "score2", "fused")
RECALLS = (0.5, 0.7, 0.8)


def make_model(folder: Path) -> Any:
    words = {word for combination in shapes.ALL for word in combination.name.split()}
    tokens = write_clip_files(folder, [*sorted(words), "a", "photo", "of", "background"])
    text = {
        "hidden_size": TEXT_WIDTH, "intermediate_size": 2 * TEXT_WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": tokens, "max_position_embeddings": 32,
        "bos_token_id": tokens - 2, "eos_token_id": tokens - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": PATCH,
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=TEXT_WIDTH)
    model: Any = transformers.CLIPModel(config)
    square = {"height": SIDE, "width": SIDE}  # the whole crop: the middle of a long one would lose its ends
    settings = {"size": square, "crop_size": square, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


def vocabulary_of(which: str) -> Vocabulary:
    chosen = shapes.select(which)
    return Vocabulary("shapes", tuple(Category(c.category_id, c.name, (c.name,)) for c in chosen))


def draw_crops(scenes: int, rule: CropRule, places: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(n, side, side, 3) crops and (n,) the place of each one's category; the last place is the background's."""
    rng, crops, names = np.random.default_rng(0), [], []
    for index in range(scenes):
        scene = draw_scene(TRAINING_SEED, index, combinations=shapes.SEEN)
        height, width = scene.image.shape[:2]
        sizes = np.tile(scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2], 2)
        loose = scene.boxes_xyxy + rng.uniform(-0.12, 0.12, scene.boxes_xyxy.shape) * sizes  # as detectors' boxes are
        corner = rng.uniform(0, 0.7, 2) * [width, height]
        empty = np.array([*corner, *(corner + rng.uniform(0.12, 0.3) * min(width, height))])
        boxes, found = list(loose), [places[int(id_)] for id_ in scene.category_ids]
        overlap = np.minimum(scene.boxes_xyxy[:, 2:], empty[2:]) - np.maximum(scene.boxes_xyxy[:, :2], empty[:2])
        if not (overlap.min(1) > 0).any():
            boxes, found = [*boxes, empty], [*found, len(places)]
        made = rule.prepare(scene.image, Detections.of(boxes, np.ones(len(boxes)), found))
        for place, crop in enumerate(made.crop_of):
            if crop >= 0:
                crops.append(made.pixels[crop])
                names.append(found[place])
    return np.stack(crops), np.array(names)


class Learner(DualEncoder):
    """The same two parts, with gradients: the vocabulary is encoded again at each step."""

    def logits(self, pixels: torch.Tensor, texts: Texts) -> torch.Tensor:
        phrases = self._encode(texts)
        features = self.model.get_image_features(pixel_values=pixels).pooler_output
        unit = features / features.norm(dim=-1, keepdim=True)
        found: torch.Tensor = unit @ phrases.T * self.model.logit_scale.exp()
        return found


def train(model: Any, texts: Texts, rule: CropRule, scenes: int, minutes: float) -> dict[str, Any]:
    """Each crop against all names and the background, for this many minutes of CPU."""
    places = {id_: place for place, id_ in enumerate(texts.category_ids)}
    crops, names = draw_crops(scenes, rule, places)
    background = np.flatnonzero(names == len(places))
    objects = np.flatnonzero(names < len(places))
    model.train()
    learner, rng = Learner(model, texts, compares=True), np.random.default_rng(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.02)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (rule.mean, rule.std))
    start, step, losses = time.process_time(), 0, []
    while (done := (time.process_time() - start) / (60 * minutes)) < 1:
        few = int(BATCH * BACKGROUND_SHARE)
        chosen = np.concatenate([rng.choice(objects, BATCH - few), rng.choice(background, few)])
        pixels = torch.from_numpy(crops[chosen]).permute(0, 3, 1, 2).float() / 255
        loss = torch.nn.functional.cross_entropy(
            learner.logits((pixels - mean) / std, texts), torch.from_numpy(names[chosen])
        )
        optimizer.param_groups[0]["lr"] = LR * min(1, step / 100) * (0.5 + 0.5 * np.cos(np.pi * min(done, 1)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            print(f"step {step}: loss {np.mean(losses[-100:]):.3f}, {done:.0%}", flush=True)
    return {"steps": step, "crops": len(crops), "loss": round(float(np.mean(losses[-100:])), 3)}


def labeled(out: Path, name: str, scenes: int, seed: int, checkpoint: Path) -> Run:
    """Label synthetic scenes with models/shapes and rescore them."""
    data = shapes.write_data_set(str(out / name), images=scenes, seed=seed)
    values = {
        "input": list(data.shards),
        "output": str(out / f"{name}-run"),
        "vocabulary": data.vocabulary,
        "model": {"name": "models/shapes", "device": "cpu"},
    }
    run = label_here(make_config(values))
    return rescore_here(run, str(out / f"{name}-rescored"), f"rescore.model={checkpoint}", f"rescore.margin={MARGIN}")


def judge(run: Run, truth: Path, fusion: Path) -> dict[str, Any]:
    """AP, best F1, and the precision at the threshold that still has each recall, by each score."""
    choices = {"score": ChosenScore(), "score2": ChosenScore("score2"), "fused": fused_score(run, str(fusion))}
    found = {}
    for name in SCORES:
        score = evaluate_run(run.uri, str(truth), score=choices[name]).scores[0]
        right, wrong = score.true_positives.sum(0), score.false_positives.sum(0)
        recall, precision = right / score.objects.sum(), right / np.maximum(right + wrong, 1)
        f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-9)
        at = {f"precision_at_recall_{r}": round(float(precision[recall >= r].max(initial=0)), 4) for r in RECALLS}
        summary = {key: round(value or 0.0, 4) for key, value in score.summary().items() if key in ("AP", "AP50")}
        found[name] = {**summary, "best_f1": round(float(f1.max()), 4), **at}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of CPU for the training")
    parser.add_argument("--scenes", type=int, default=3000, help="to learn from")
    parser.add_argument("--judged", type=int, default=150, help="scenes to judge on, and as many to fit on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = asked.out / "clip"
    checkpoint.mkdir(parents=True)
    model = make_model(checkpoint)
    with no_progress_bars():
        model.save_pretrained(checkpoint)
    light = resolve_rescorer(checkpoint)
    learned = train(
        model, make_texts(light, vocabulary_of("seen")), CropRule.of(light, MARGIN), asked.scenes, asked.minutes
    )
    with no_progress_bars():
        model.eval().save_pretrained(checkpoint)
    fitted = labeled(asked.out, "fitted", asked.judged, FITTED_SEED, checkpoint)
    judged = labeled(asked.out, "judged", asked.judged, JUDGED_SEED, checkpoint)
    fusion = asked.out / "fusion.yaml"
    truth = {run: asked.out / run / "annotations.json" for run in ("fitted", "judged")}
    command = ["calibrate", fitted.uri, "--annotations", str(truth["fitted"]), "--target", "precision=0.9"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert labeler([*command, "--score", "fused", "--output", str(fusion)]) == 0
    result = {
        "training": {**learned, "parameters": sum(p.numel() for p in model.parameters()), "cpu_minutes": asked.minutes},
        "scenes_judged": asked.judged,
        "scenes_fitted": asked.judged,
        "fusion": yaml.safe_load(fusion.read_text())["fitted_on"]["fusion"],
        "fusion_said": said.getvalue().splitlines()[0],
        "scores": judge(require_run(judged.uri), truth["judged"], fusion),
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
