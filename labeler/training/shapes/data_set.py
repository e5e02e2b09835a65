"""Scenes as people store images: WebDataset shards, COCO ground truth and a vocabulary beside them."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pycocotools.mask
from PIL import Image

from labeler import storage
from labeler.errors import Refused
from labeler.training.shapes.combinations import ALL, HELD_OUT, SEEN, Combination, categories
from labeler.training.shapes.natural import Natural
from labeler.training.shapes.scenes import SIZES, Scene, draw_scene


@dataclass(frozen=True)
class DataSet:
    """A data set that was written: its URIs and counts."""

    shards: tuple[str, ...]
    annotations: str
    vocabulary: str
    images: int
    objects: int


def write_data_set(
    out: str,
    *,
    images: int,
    seed: int = 0,
    images_per_shard: int = 50,
    combinations: Sequence[Combination] = ALL,
    sizes: Sequence[tuple[int, int]] = SIZES,
    image_format: Literal["jpeg", "png"] = "jpeg",
    captions: bool = True,
    natural: float = 0.0,
) -> DataSet:
    """Write shards, ground truth and names under a folder or URL.

    `shards/shapes-000000.tar` ..., `annotations.json` (COCO), `vocabulary.txt`, and `groups.yaml`: which categories
    training sees and which it does not, as `labeler evaluate --groups` takes them.

    The same arguments give the same bytes, and image i is the same whatever `images` and `images_per_shard` are.

    Args:
        out: a local folder or any URL that `labeler.storage` writes.
        images: how many scenes.
        captions: also write `<name>.json` with a caption for every image.
        natural: share of scenes before a background with the statistics of photographs, 0 to 1.

    Raises:
        Refused: for numbers that make no sense.
        StorageError: when it cannot be written.
    """
    if images < 1 or images_per_shard < 1 or seed < 0:
        raise Refused(
            f"shapes: images={images} and images_per_shard={images_per_shard} must be 1 or more, seed={seed} 0 or more"
        )
    truth: dict[str, Any] = {
        "info": {
            "description": "labeler shapes: synthetic scenes of colored shapes",
            "seed": seed,
            "image_format": image_format,
            **({"natural": natural} if natural else {}),
        },
        "images": [],
        "annotations": [],
        "categories": categories(),
    }
    shards, background = [], Natural(natural, seed) if natural else None
    for number, start in enumerate(range(0, images, images_per_shard)):
        name, members = f"shapes-{number:06d}.tar", list[tuple[str, bytes]]()
        for index in range(start, min(images, start + images_per_shard)):
            scene = draw_scene(seed, index, sizes=sizes, combinations=combinations, background=background)
            member = f"{index:06d}.{'jpg' if image_format == 'jpeg' else 'png'}"
            members.append((member, encode(scene, image_format)))
            if captions:
                sidecar = {"caption": caption(scene), "seed": seed, "index": index}
                members.append((f"{index:06d}.json", json.dumps(sidecar).encode()))
            _annotate(truth, scene, index + 1, f"{name}/{member}")
        shards.append(storage.join(out, "shards", name))
        storage.put(shards[-1], _tar(members))
    annotations, vocabulary = storage.join(out, "annotations.json"), storage.join(out, "vocabulary.txt")
    storage.put(vocabulary, "".join(f"{c.name}\n" for c in ALL).encode())
    groups = {"seen": [c.name for c in SEEN], "held out": [c.name for c in HELD_OUT]}
    lines = [f"{name}: [{', '.join(members)}]\n" for name, members in groups.items()]
    storage.put(storage.join(out, "groups.yaml"), "".join(lines).encode())
    storage.put(annotations, json.dumps(truth, separators=(",", ":")).encode())
    return DataSet(tuple(shards), annotations, vocabulary, images, len(truth["annotations"]))


def encode(scene: Scene, image_format: Literal["jpeg", "png"]) -> bytes:
    """Return the image as JPEG (quality 92, color at full resolution) or PNG bytes."""
    buffer = io.BytesIO()
    image = Image.fromarray(scene.image)
    if image_format == "jpeg":
        image.save(buffer, "JPEG", quality=92, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def caption(scene: Scene) -> str:
    """E.g. "a red circle, two blue stars": what is in the scene, in drawing order."""
    names = {c.category_id: c.name for c in ALL}
    counts = Counter(names[int(i)] for i in scene.category_ids)
    words = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return ", ".join(
        _article(name) if n == 1 else f"{words[n] if n < len(words) else n} {_plural(name)}"
        for name, n in counts.items()
    )


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    return f"{name}es" if name.endswith("cross") else f"{name}s"


def _annotate(truth: dict[str, Any], scene: Scene, image_id: int, file_name: str) -> None:
    """Add one image and its objects. Annotation ids count from 1: COCOeval takes a 0 for "not matched"."""
    height, width = scene.image.shape[:2]
    truth["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
    for box, category_id, mask in zip(scene.boxes_xyxy.tolist(), scene.category_ids.tolist(), scene.masks, strict=True):
        x_min, y_min, x_max, y_max = box
        truth["annotations"].append(
            {
                "id": len(truth["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
                "area": int(pycocotools.mask.area(mask)),
                "segmentation": mask,
                "iscrowd": 0,
            }
        )


def _tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a tar without times or owners, so that the same scenes give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
