"""OWL-ViT and OWLv2 as families: which checkpoints they are, their images and their prompts. Without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from labeler import plain_json
from labeler.config import ModelConfig
from labeler.errors import Refused
from labeler.prompts import clip_tokenizer
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.prompts.family import CROPS, PromptPlan
from labeler.prompts.image_rule import GAUSSIAN, ImageRule, rule_from
from labeler.prompts.owl.plan import OwlPlan
from labeler.prompts.owl.planner import OwlPlanner
from labeler.storage import read_regular

_BICUBIC = 3  # Pillow's number
_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "resample": _BICUBIC,
}
_MAX_TOKENS = 16  # transformers' default, for checkpoints that do not say


@dataclass(frozen=True)
class OwlFamily:
    """Phrases as queries, all in one pass; a `Family`.

    Attributes:
        fit: "stretch" for OWL-ViT, "square" for OWLv2, whose boxes are in the filled square.
        side: pixels of its images where a checkpoint does not say.
    """

    name: str
    architectures: Mapping[str, str]
    fit: Literal["stretch", "square"]
    side: int
    version: ClassVar = 1
    network: ClassVar = "labeler.detectors.owl.network:OwlNetwork"
    text_files: ClassVar = clip_tokenizer.FILES
    options: ClassVar = frozenset({"prompts.templates", CROPS})
    # A fifth of the threshold that they are used with, 0.1, as Grounding DINO's 0.05 is of 0.25.
    score_floor: ClassVar = 0.02

    def image_rule(self, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
        settings = {**_CLIP, **processor}
        read = _side(_section(config, "vision_config", name).get("image_size", self.side), name)
        side = _side(settings.get("size", read), name)
        if side != read:
            raise Refused(f"checkpoint {name}: the image processor's size {side} is not the model's {read} pixels")
        if settings.get("do_center_crop") and _side(settings.get("crop_size", side), name) != side:
            raise Refused(f"checkpoint {name}: its images are cropped after resizing, and would lose objects")
        if self.fit == "stretch":
            return rule_from(settings, name, "stretch", (side, side))
        if not settings.get("do_pad", True):
            raise Refused(f"checkpoint {name}: do_pad is false, and OWLv2 was trained on images in a filled square")
        # Whatever filter its settings name: the processor of OWLv2 has one of its own.
        rule = rule_from({**settings, "resample": None}, name, "square", (side, side))
        return replace(rule, resample=GAUSSIAN)

    def planner(self, folder: Path, model: ModelConfig) -> OwlPlanner:
        config = plain_json.parse(read_regular(folder / "config.json"))
        longest = _section(config, "text_config", folder.name).get("max_position_embeddings", _MAX_TOKENS)
        if not isinstance(longest, int) or longest < 3:
            raise Refused(f"checkpoint {folder.name}: max_position_embeddings in its config.json is {longest!r}")
        return OwlPlanner(self.name, ClipTokenizer.load(folder), longest)

    def narrow(self, plan: PromptPlan, category_ids: Collection[int]) -> OwlPlan:
        """As of `Narrower`: the phrases of these categories and of the negatives. It is one pass as before."""
        assert isinstance(plan, OwlPlan)
        wanted = plan.negative_ids.union(category_ids)
        return replace(plan, phrases=tuple(phrase for phrase in plan.phrases if phrase.category_id in wanted))

    def plan_from_json(self, data: Mapping[str, Any]) -> OwlPlan:
        return OwlPlan.from_json(data)


OWL_VIT = OwlFamily("owl-vit", {"owlvit": "OwlViTForObjectDetection"}, "stretch", 768)
OWL_V2 = OwlFamily("owlv2", {"owlv2": "Owlv2ForObjectDetection"}, "square", 960)


def _section(config: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    """Return a section of config.json, empty where there is none. Refused where it is something else."""
    section = config.get(part) or {}
    if not isinstance(section, Mapping):
        raise Refused(f"checkpoint {name}: {part} in its config.json is {section!r}, not settings")
    return section


def _side(size: Any, name: str) -> int:
    """Of a square: 960, [960, 960] (older checkpoints) or {height: 960, width: 960}."""
    sides = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
    sides = [sides, sides] if isinstance(sides, int) else sides
    if not isinstance(sides, list | tuple) or len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int):
        raise Refused(f"checkpoint {name}: its image size is {size!r}; needed is a height and an equal width in pixels")
    return sides[0]
