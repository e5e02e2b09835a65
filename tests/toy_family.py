"""A whole family in a file: DETR with masks, a closed set with a softmax over its labels and "no object"."""

from __future__ import annotations

import json
from dataclasses import dataclass

from torch import Tensor

from labeler.detectors.network import ModelNetwork, Rows, Scored
from labeler.prompts import PlanReport, register
from labeler.prompts.image_rule import rule_from
from labeler.prompts.phrase_plan import PhrasePlan


@dataclass(frozen=True)
class Toy:
    name, version, text_files, options, digests, score_floor = "toy", 1, (), frozenset(), {}, 0.05
    architectures, network = {"toy": "DetrForSegmentation"}, "tests.toy_family:ToyNetwork"
    labels: tuple[str, ...] = ()

    def image_rule(self, processor, config, name):
        return rule_from(processor, name, "stretch", (processor["size"]["height"], processor["size"]["width"]))

    def planner(self, folder, model):
        return Toy(tuple(json.loads((folder / "config.json").read_text())["id2label"].values()))

    def check(self, vocabulary, prompts):
        phrases = [(c, phrase) for c in vocabulary.categories for phrase in c.phrases]
        return PlanReport(
            [f"{vocabulary.where(c)}: the model has no {p!r}" for c, p in phrases if p not in self.labels]
        )

    def plan(self, vocabulary, prompts):
        return PhrasePlan.of(self.name, vocabulary)

    def plan_from_json(self, data):
        return PhrasePlan.from_json(data)


class ToyNetwork(ModelNetwork):
    candidates = property(lambda self: self.model.config.num_queries)

    def encode_image(self, pixels: Tensor) -> Rows:
        with self.autocast():
            out = self.model(pixel_values=pixels)
        return Rows((out.logits.float().softmax(-1), out.pred_boxes.float()))

    def detect(self, image: Rows, text: Rows) -> Scored:
        labels = list(self.model.config.id2label.values())
        columns = [labels.index(text) for _, text in self.plan.phrases]
        return Scored.of(image.tensors[0][..., columns], image.tensors[1])


register(Toy())
