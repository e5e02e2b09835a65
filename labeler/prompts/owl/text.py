"""Phrases as OWL-ViT and OWLv2 read them: in the templates, and spelled as in their training."""

from __future__ import annotations

import re
from collections.abc import Sequence

# The seven of the published LVIS protocol (google-research/scenic, projects/owl_vit: evaluator.py embeds each name with
# CLIP_BEST_PROMPT_TEMPLATES of preprocessing/label_ops.py, which are CLIP's own choice for ImageNet).
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def canonical(text: str) -> str:
    """Lower case, and no ASCII punctuation but single dashes between and in words; other letters stay as they are.

    The models were trained on texts spelled so, and the published protocol spells its prompts so, templates too
    (scenic's label_ops also drops all letters beyond ASCII; here "crème" keeps its accent).
    """
    spaced = re.sub(r"[^a-z0-9\-\u0080-\U0010ffff]", " ", text.lower())
    return " ".join(re.sub(r"-+", "-", spaced).split())


def in_templates(phrase: str, templates: Sequence[str]) -> list[str]:
    """Return the texts of a phrase, one for each template."""
    return [canonical(template.replace("{}", phrase)) for template in templates]
