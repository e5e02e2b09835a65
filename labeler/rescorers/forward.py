"""CLIP's and SigLIP's forward pass in two parts: the vocabulary once, then crops.

Only transformers' own submodules compute features here. Added are the mean over templates, the best phrase of a
category, and half precision of the encoders' matrix products; norms, similarities and scores are in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from labeler.rescorers.texts import Texts, padded

_PROMPTS_AT_ONCE = 128


class DualEncoder:
    """The two parts over one loaded model. Inference only; use it under `torch.inference_mode()`.

    Attributes:
        half: dtype of the encoders' matrix products under autocast, None for float32 throughout.
    """

    def __init__(self, model: Any, texts: Texts, *, compares: bool, half: torch.dtype | None = None) -> None:
        """
        Args:
            model: a float32 CLIPModel or SiglipModel, in eval mode.
            compares: True for CLIP, where categories and background compete; False for SigLIP.
        """
        self.model, self.half, self._compares = model, half, compares
        self.device: torch.device = next(model.parameters()).device
        columns = [phrase.category for phrase in texts.phrases]
        self._columns = len(texts.category_ids) + (1 if -1 in columns else 0)
        last = torch.tensor([column if column >= 0 else self._columns - 1 for column in columns])
        self._column = last.to(self.device)
        with torch.inference_mode():
            self._phrases = self._encode(texts)
            self._scale: Tensor = model.logit_scale.float().exp()
            self._bias: Tensor | float = 0.0 if compares else model.logit_bias.float()

    def _encode(self, texts: Texts) -> Tensor:
        """Return (phrases, d) unit vectors: of each prompt, then of the mean over a phrase's templates."""
        prompts = [ids for phrase in texts.phrases for ids in phrase.prompts]
        parts = []
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            rows = list(padded(texts, prompts[start : start + _PROMPTS_AT_ONCE]))
            ids, mask = (torch.tensor(part, device=self.device) for part in zip(*rows, strict=True))
            # SigLIP was trained on filled prompts, and looks at the filling.
            extra = {"attention_mask": mask} if self._compares else {}
            parts.append(_unit(self.model.get_text_features(input_ids=ids, **extra).pooler_output.float()))
        features = torch.cat(parts)
        ends = np.cumsum([len(phrase.prompts) for phrase in texts.phrases])
        parts = [features[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
        return torch.stack([_unit(part.mean(0)) if len(part) > 1 else part[0] for part in parts])

    def similarities(self, pixel_values: Tensor) -> Tensor:
        """Return (n, phrases) float32 logits of normalized crops (n, 3, side, side) float32, as the model's
        own forward pass.
        """
        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        logits: Tensor = _unit(features.float()) @ self._phrases.T * self._scale + self._bias
        return logits

    def score(self, pixel_values: Tensor) -> Tensor:
        """Return (n, categories) float32 in [0, 1] of normalized crops, in the order of `Texts.category_ids`.

        A category has the logit of its best phrase. CLIP: softmax over the categories and the background; SigLIP:
        sigmoid.
        """
        logits = self.similarities(pixel_values)
        best = torch.full((len(logits), self._columns), -torch.inf, device=logits.device)
        best.scatter_reduce_(1, self._column.expand(len(logits), -1), logits, "amax")
        return best.softmax(1) if self._compares else best.sigmoid()


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = features / features.norm(p=2, dim=-1, keepdim=True)
    return unit
