"""The example of a detector of one's own, submitted as it is: RT-DETR on a worker that has its working folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from transformers.image_transforms import center_to_corners_format
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from labeler import images
from labeler.prompts import UserModule
from labeler.runs import open_run, read_snapshot
from tests.inputs import image_bytes
from tests.ray_heads import ROOT, head_node, slim_clone, submit_label

LABELS = ["person", "car", "dog", "bus"]
SIDES = ("x_min", "y_min", "x_max", "y_max")


def rt_detr(folder: Path) -> Path:
    """A small RT-DETR with every parameter drawn at random, whose scores are distinct."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    small = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in
             {"ffn_dim": 32, "attention_heads": 2}.items()}  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 24, 32],
        encoder_hidden_dim=32,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_layers=2,
        num_queries=30,
        id2label=dict(enumerate(LABELS)),
        **small,
    )
    torch.manual_seed(3)
    model = transformers.RTDetrForObjectDetection(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.0 if name.endswith("bias") else 0.2)
        seen = model.eval()(pixel_values=torch.rand(1, 3, 640, 640)).last_hidden_state[0]
        head = model.model.decoder.class_embed[-1].weight  # labels by how queries differ, not by what they share
        common = seen.mean(0) / seen.mean(0).norm()
        head.normal_().sub_(torch.outer(head @ common, common)).div_((seen @ head.T).std() / 2)
    model.save_pretrained(folder)
    RTDetrImageProcessorPil().save_pretrained(folder)
    return folder


def of_transformers(folder: Path, data: bytes, wanted: list[str]) -> list[tuple[float, str, list[float]]]:
    """(score, label, xyxy) of one image by transformers' own processor, model and boxes, with each box's best label."""
    pixels = images.decode(data).pixels
    processor = RTDetrImageProcessorPil.from_pretrained(folder)
    model = transformers.RTDetrForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(pixel_values=torch.from_numpy(np.array(processor(pixels)["pixel_values"])))
    height, width = pixels.shape[:2]
    scores, best = out.logits[0].sigmoid()[:, [LABELS.index(name) for name in wanted]].max(-1)
    boxes = (center_to_corners_format(out.pred_boxes[0]) * torch.tensor([width, height] * 2)).numpy()
    rows = zip(scores.tolist(), best.tolist(), np.clip(boxes, 0, [width, height] * 2).tolist(), strict=True)
    kept = [(score, wanted[label], box) for score, label, box in rows if box[2] > box[0] and box[3] > box[1]]
    return sorted((row for row in kept if row[0] >= 0.05), reverse=True)


@pytest.mark.slow  # half a minute: a head node with its job server
def test_the_example_is_submitted_as_it_is_and_has_the_boxes_of_transformers(tmp_path: Path) -> None:
    source, checkpoint = tmp_path / "in", rt_detr(tmp_path / "model")
    source.mkdir()
    for number, (width, height) in enumerate([(90, 60), (64, 64), (50, 120)]):
        (source / f"{number}.png").write_bytes(image_bytes(number, width=width, height=height))
    values = yaml.safe_load((ROOT / "examples" / "rt_detr.yaml").read_text())
    values |= {"input": str(source), "output": str(tmp_path / "run"), "detect": {"nms_iou": 1}}
    values["model"]["name"] = str(checkpoint)
    values["model"]["family"] = "my_package.my_detector"  # nowhere but in the working folder
    clone = slim_clone(tmp_path / "clone")
    (clone / "my_package").mkdir()
    shutil.copy(ROOT / "examples" / "rt_detr.py", clone / "my_package" / "my_detector.py")
    (clone / "mine.yaml").write_text(yaml.safe_dump(values))
    with head_node() as address:
        result = submit_label(address, clone, "mine.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    shutil.rmtree(clone)
    run = open_run(str(tmp_path / "run"))
    assert run is not None
    rows = [row for table in read_snapshot(run).tables() for row in table.to_pylist()]
    names, labels = {c.id: c.name for c in run.vocabulary().categories}, set()
    for row in rows:
        expected = of_transformers(checkpoint, (source / row["image_key"]).read_bytes(), values["vocabulary"])
        found = row["detections"]
        assert len(found) == len(expected) > 20
        assert [names[d["category_id"]] for d in found] == [label for _, label, _ in expected]
        np.testing.assert_allclose([d["score"] for d in found], [score for score, _, _ in expected], atol=1e-5)
        np.testing.assert_allclose(
            [[d[side] for side in SIDES] for d in found], [box for _, _, box in expected], atol=0.01
        )
        labels |= {label for _, label, _ in expected}
    assert len(rows) == 3
    assert len(labels) > 1
    example = UserModule.find("examples.rt_detr")
    fields = run.manifest.fingerprint_fields
    assert (fields["family"], fields["family_source"]) == ("my_package.my_detector", example.digest)


def test_the_example_is_short() -> None:
    assert len((ROOT / "examples" / "rt_detr.py").read_text().splitlines()) < 60
