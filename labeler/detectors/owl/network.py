"""OWL-ViT and OWLv2 as a network: an image is encoded once, and compared with all phrases in one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labeler import images
from labeler.detectors.network import ModelNetwork, Rows, Scored, Setup
from labeler.detectors.upload import model_input
from labeler.errors import Refused
from labeler.prompts import PromptPlan
from labeler.prompts.owl.plan import OwlPlan

_TEXTS = 512  # encoded at once
_EPSILON = 1e-6  # of transformers' class head


@dataclass(frozen=True)
class Queries(Rows):
    """The one pass's (1, phrases, dim) query embeddings; all pairs share one copy."""

    def take(self, index: Tensor) -> Queries:
        return Queries((self.tensors[0][:1].expand(len(index), -1, -1),))


class OwlNetwork(ModelNetwork):
    """A `Network[Rows, Rows]`: an image's rows are its class embeddings, their shift and scale, and its boxes.

    Only the image encoder runs in half precision. The heads are 1 % of its work, and boxes that are added up in half
    are pixels away.
    """

    plan: OwlPlan

    def __init__(self, model: Any, plan: PromptPlan, setup: Setup) -> None:
        """
        Args:
            model: an OwlViTForObjectDetection or Owlv2ForObjectDetection.
        """
        if not isinstance(plan, OwlPlan):
            raise TypeError(f"{setup.name} reads phrases, got a plan of the family {plan.family}")
        super().__init__(model, plan, setup)
        self._base = model.owlv2 if hasattr(model, "owlv2") else model.owlvit

    @property
    def candidates(self) -> int:
        return int(self.model.num_patches_height * self.model.num_patches_width)

    def encode_text(self) -> Queries:
        """Return the queries of all phrases: of words the `mean_of_templates`, of a crop what the model sees in it."""
        prompts = [ids for phrase in self.plan.phrases for ids in phrase.prompts]
        embedded = [self._embed(prompts[at : at + _TEXTS]) for at in range(0, len(prompts), _TEXTS)]
        words = iter(mean_of_templates(torch.cat(embedded), len(self.plan.templates)) if prompts else ())
        crops = (phrase.crop for phrase in self.plan.phrases)
        self._queries = torch.stack([next(words) if crop is None else self._look_at(crop) for crop in crops])
        return Queries((self._queries[None],))

    def encode_names(self, plan: PromptPlan) -> Queries:
        """As of `NarrowNetwork`: no phrase is encoded again."""
        assert isinstance(plan, OwlPlan)
        places = {phrase: place for place, phrase in enumerate(self.plan.phrases)}
        chosen = torch.tensor([places[phrase] for phrase in plan.phrases], device=self.device)
        return Queries((self._queries.index_select(0, chosen)[None],))

    def _embed(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return (prompts, dim) unit embeddings, float32. What fills a prompt lies behind its end, which sees none of
        it.
        """
        width = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts])
        mask = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
        features = self._base.get_text_features(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        return torch.nn.functional.normalize(features.pooler_output.float(), dim=-1)

    def _look_at(self, crop: bytes) -> Tensor:
        """Return (dim,) unit embedding of the object that fills a crop, by transformers' own rule, in float32.

        OWLv2 takes its box of the highest objectness. OWL-ViT takes, of the boxes that nearly fill the crop, the one
        least like the mean of all: most boxes on an object are background to it.
        """
        pixels = model_input(images.decode(crop).pixels, self.setup.rule, self.device)
        map_of_features = self.model.image_embedder(pixel_values=pixels)[0]
        query = self.model.embed_image_query(map_of_features.flatten(1, 2), map_of_features)[0]
        if query is None:  # nothing is finite
            raise Refused(f"checkpoint {self.setup.name} finds nothing in a crop of the vocabulary")
        return torch.nn.functional.normalize(query[0, 0].float(), dim=-1)

    def encode_image(self, pixels: Tensor) -> Rows:
        with self.autocast():
            map_of_features = self.model.image_embedder(pixel_values=pixels)[0]
        with torch.autocast(self.device.type, enabled=False):
            map_of_features = map_of_features.float()
            features = map_of_features.flatten(1, 2)  # (images, positions, dim)
            boxes = self.model.box_predictor(features, map_of_features)
            head = self.model.class_head
            embeddings = head.dense0(features)
            embeddings = embeddings / (torch.linalg.norm(embeddings, dim=-1, keepdim=True) + _EPSILON)
            return Rows((embeddings, head.logit_shift(features), head.elu(head.logit_scale(features)) + 1, boxes))

    def detect(self, image: Rows, text: Rows) -> Scored:
        embeddings, shift, scale, boxes = image.tensors
        cosines = embeddings @ text.tensors[0].transpose(1, 2)
        return Scored.of(((cosines + shift) * scale).sigmoid(), boxes)


def mean_of_templates(embedded: Tensor, templates: int) -> Tensor:
    """Return (phrases, dim) from the unit embeddings (phrases * templates, dim) of each phrase in each template.

    The published protocol averages the logits of the templates. A logit is linear in the query's unit embedding, so
    this mean has exactly that logit; it is shorter than 1, and must not be made a unit again.
    """
    return embedded.view(-1, templates, embedded.shape[-1]).mean(1)
