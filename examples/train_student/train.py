"""Train a closed-set detector on labels from labeler, with the transformers Trainer.

    labeler export RUN --to coco --layout roboflow --images copy --split train=0.9,val=0.1 --output EXPORT
    python examples/train_student/train.py EXPORT --model CHECKPOINT --output student --steps 2000
    labeler label student.yaml        # model.name: student, vocabulary: from_model

CHECKPOINT is a local folder of RF-DETR, RT-DETR, D-FINE or another detector that `AutoModelForObjectDetection` loads;
the script replaces its class heads. `--model tiny` is an RT-DETR with 1.4 million random weights, for trials on a CPU.
It needs labeler and accelerate (requirements.txt), not torchvision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor


class Scenes(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of one split, with boxes in the form that the models expect.

    Classes are positions in `names`, by ascending category ID, not the COCO IDs themselves. Objects with `iscrowd` are
    skipped and so become background: export uncertain boxes with `--uncertain-as image` or `blank`.
    """

    def __init__(self, folder: Path, image_settings: dict[str, Any], *, mirror: bool) -> None:
        values = json.loads((folder / "_annotations.coco.json").read_text())
        categories = sorted(values["categories"], key=lambda category: category["id"])
        self.names = [category["name"] for category in categories]
        class_of = {category["id"]: number for number, category in enumerate(categories)}
        self._targets: dict[int, list[list[float]]] = {image["id"]: [] for image in values["images"]}
        for one in values["annotations"]:
            if not one.get("iscrowd"):
                self._targets[one["image_id"]].append([class_of[one["category_id"]], *one["bbox"]])
        self._images, self._folder, self._mirror = values["images"], folder, mirror
        size = image_settings["size"]
        self._size = size["width"], size["height"]
        normalize = image_settings.get("do_normalize", True)
        self._mean = torch.tensor(image_settings.get("image_mean", [0.485, 0.456, 0.406]) if normalize else [0.0] * 3)
        self._std = torch.tensor(image_settings.get("image_std", [0.229, 0.224, 0.225]) if normalize else [1.0] * 3)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> dict[str, Any]:
        image = self._images[place]
        with Image.open(self._folder / image["file_name"]) as opened:
            resized = opened.convert("RGB").resize(self._size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255
        pixels = (pixels - self._mean[:, None, None]) / self._std[:, None, None]
        found = torch.tensor(self._targets[image["id"]], dtype=torch.float32).reshape(-1, 5)
        boxes = found[:, 1:] / torch.tensor([image["width"], image["height"]] * 2)  # x, y, width, height in parts
        boxes = torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)
        if self._mirror and torch.rand(()) < 0.5:
            pixels, boxes[:, 0] = pixels.flip(-1), 1 - boxes[:, 0]
        return {"pixel_values": pixels, "labels": {"class_labels": found[:, 0].long(), "boxes": boxes}}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    pixels: list[Tensor] = [row["pixel_values"] for row in rows]
    return {"pixel_values": torch.stack(pixels), "labels": [row["labels"] for row in rows]}


def tiny(names: Sequence[str]) -> Any:
    """Return an RT-DETR with 50 queries and random weights; the backbone's normalization is trained, too."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=24, hidden_sizes=[24, 48, 96, 128], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, freeze_backbone_batch_norms=False, d_model=96, encoder_hidden_dim=96,
        encoder_in_channels=[48, 96, 128], encoder_ffn_dim=192, encoder_attention_heads=4,
        decoder_in_channels=[96, 96, 96], decoder_ffn_dim=192, decoder_layers=2, decoder_attention_heads=4,
        num_queries=50, num_denoising=20, hidden_expansion=0.5, id2label=dict(enumerate(names)),
    )  # fmt: skip
    return transformers.RTDetrForObjectDetection(config)


def pretrained(folder: str, names: Sequence[str]) -> Any:
    """Return the checkpoint with heads for these classes."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    return transformers.AutoModelForObjectDetection.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True, **labels
    )


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    settings: dict[str, Any] = {"size": {"height": 128, "width": 128}, "do_normalize": False}
    if arguments.model != "tiny":
        settings = json.loads((Path(arguments.model) / "preprocessor_config.json").read_text())
    splits = {name: arguments.export / name for name in ("train", "valid") if (arguments.export / name).is_dir()}
    scenes = {name: Scenes(folder, settings, mirror=name == "train") for name, folder in splits.items()}
    names = scenes["train"].names
    model = tiny(names) if arguments.model == "tiny" else pretrained(arguments.model, names)
    options = transformers.TrainingArguments(
        str(arguments.output / "trainer"), max_steps=arguments.steps, per_device_train_batch_size=arguments.batch,
        learning_rate=arguments.lr, warmup_steps=min(100, arguments.steps // 5), lr_scheduler_type="cosine",
        weight_decay=1e-4, max_grad_norm=0.5, logging_steps=100, save_strategy="no", report_to=[],
        remove_unused_columns=False, dataloader_num_workers=arguments.workers, seed=arguments.seed,
        eval_strategy="no", prediction_loss_only=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, options, train_dataset=scenes["train"], eval_dataset=scenes.get("valid"), data_collator=collate
    )
    trainer.train()
    model.eval().save_pretrained(arguments.output)
    (arguments.output / "preprocessor_config.json").write_text(json.dumps(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="folder with train/ and valid/, from --layout roboflow")
    parser.add_argument("--model", default="tiny", help="a local checkpoint, or tiny (default)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the student")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
