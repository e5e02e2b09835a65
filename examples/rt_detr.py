"""Your own detector: RT-DETR by transformers, for `model.family: examples.rt_detr` (docs/guides/own-detector.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import RTDetrForObjectDetection

from labeler.vocabulary import Category

VERSION = 1  # increase it when a change gives other boxes for equal weights
OPTIONS = ("side",)  # keys that model.options accepts


class Detector:
    def __init__(self, folder: str, categories: Sequence[Category], device: str, options: Mapping[str, object]) -> None:
        self.device, self.side = device, int(str(options.get("side", 640)))
        model = RTDetrForObjectDetection.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        self.model = model.to(device).eval()
        label_of = {label.casefold(): number for number, label in model.config.id2label.items()}
        wanted = [(category.id, phrase) for category in categories for phrase in category.phrases]
        missing = [phrase for _, phrase in wanted if phrase.casefold() not in label_of]
        if missing:
            raise ValueError(f"the checkpoint has no label {missing[0]!r}; it has {', '.join(sorted(label_of))}")
        self.ids = torch.tensor([category_id for category_id, _ in wanted])
        self.columns = torch.tensor([label_of[phrase.casefold()] for _, phrase in wanted])

    @torch.inference_mode()
    def detect(self, images: list[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return (boxes xyxy in pixels, scores, category IDs) per image."""
        pixels = torch.stack([self.resized(image) for image in images]).to(self.device)
        out = self.model(pixel_values=pixels)
        scores, best = out.logits.sigmoid()[..., self.columns.to(self.device)].max(-1)  # one category for each box
        center, size = out.pred_boxes.split(2, dim=-1)
        boxes = torch.cat([center - size / 2, center + size / 2], dim=-1).cpu()
        sides = [torch.tensor([image.shape[1], image.shape[0]] * 2) for image in images]
        return [
            (box * side, score, self.ids[column])
            for box, side, score, column in zip(boxes, sides, scores.cpu(), best.cpu(), strict=True)
        ]

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """Return (3, side, side) values from 0 to 1, like the checkpoint's own processor."""
        square = Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
