"""CVAT: a folder for each task with its images and annotations ("CVAT for images 1.1"), and labels that fit them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.digests import canonical_json, readable_json
from labeler.exports.crowded_images import crops_of
from labeler.exports.formats import Format, Frame, Part
from labeler.exports.pixels import Pixels
from labeler.exports.reviewed import IMAGES_PER_TASKS, clipped_boxes, labels_shown
from labeler.exports.sampled import SampledImage
from labeler.exports.selection import ChosenImage
from labeler.exports.splits import ALL
from labeler.exports.totals import ExportTotals
from labeler.exports.xml_text import attribute, content
from labeler.vocabulary import Category

_SCORE, _BOX = "score", "labeler_box"  # attributes of each box
TASK = "labeler_task"  # label of the tag of an image that is a crop, or whose boxes were drawn for a sample
ROW, SHOWN, ASKED, CROP = "labeler_row", "labeler_shown", "labeler_asked", "labeler_crop"  # attributes of the tag
_LONGEST_VALUE = 4096  # characters that CVAT's database takes
_RUN = "labeler_run"  # the default of an attribute that no box sets: so a task says whose boxes it has
_ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {"name": _SCORE, "mutable": False, "input_type": "number", "default_value": "0", "values": ["0", "100", "1"]},
    {"name": _BOX, "mutable": False, "input_type": "text", "default_value": "", "values": [""]},
)
_DRAWN: dict[str, Any] = {
    "name": "labeler_design",
    "mutable": False,
    "input_type": "text",
    "default_value": "",
    "values": [""],
}  # of each box of a sample: how it was drawn
_OF_TAGS: tuple[dict[str, Any], ...] = tuple(
    {"name": name, "mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    for name in (ROW, SHOWN, ASKED, CROP)
)
_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'


@dataclass(frozen=True)
class CvatFormat(Format):
    """task-00000/annotations.xml and task-00000/images/<shard>-<index>.<ext> ..., and labels.json.

    An image that is a crop, or whose boxes were drawn for a sample, has a tag for that, which CVAT gives back.

    A task's images are in one flat folder, because CVAT matches them by name, and an upload keeps the last part of it.

    Attributes:
        labels: whose names the labels offer: of "all" categories, or of those "present" in the export.
        images_per_part: images of a task.
        boxes_per_task: an image with more is written as crops; None for any number.
    """

    labels: str = "all"
    images_per_part: int = IMAGES_PER_TASKS
    boxes_per_task: int | None = None
    name = "cvat"
    needs_pixels = True
    later = frozenset({"boxes_per_task"})

    @property
    def most_boxes(self) -> int | None:
        return self.boxes_per_task

    def describe_bad_image(self, image: ChosenImage) -> str | None:
        tasks = crops_of(image, self.most_boxes)
        if all(one.sampled is None or len(_asked(one.sampled)) <= _LONGEST_VALUE for one in tasks):
            return None
        return (
            f"more boxes of image {image.row_id} were drawn for the sample than CVAT can list; use --to label-studio, "
            "--boxes-per-task, or a smaller sample"
        )

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> CvatPart:
        return CvatPart(frame, number, folder, self.images_per_part, has_tags=_has_tags(frame, self.boxes_per_task))

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        labels = [
            {"name": category.name, "type": "rectangle", "attributes": _attributes(frame)}
            for category in labels_shown(frame, totals, self.labels)
        ]
        if _has_tags(frame, self.boxes_per_task):
            labels.append({"name": TASK, "type": "tag", "attributes": list(_OF_TAGS)})
        return {"labels.json": readable_json(labels)}


class CvatPart(Part):
    """One part: a task for each split. Its annotations are written to disk; images go straight to the target."""

    def __init__(self, frame: Frame, number: int, folder: Path, limit: int, *, has_tags: bool) -> None:
        super().__init__(frame, number, most_images=limit)
        self._paths = {split: folder / f"{split}.xml" for split in frame.splits}
        self._files = {split: path.open("w", encoding="utf-8") for split, path in self._paths.items()}
        self._counts = dict.fromkeys(frame.splits, 0)
        for file in self._files.values():
            file.write(_HEAD + _meta(frame.categories, _attributes(frame), has_tags=has_tags))

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("CVAT needs the image")
        row, name = image.row, f"{image.stem}.{pixels.extension}"
        self._uploads.put(f"{self._task(image.split)}/images/{name}", pixels.data)
        place = self._counts[image.split]
        file = self._files[image.split]
        file.write(f'<image id="{place}" name={attribute(name)} width="{row["width"]}" height="{row["height"]}">\n')
        file.write(_tag(image))
        file.writelines(self._boxes(image))
        file.write("</image>\n")
        self._counts[image.split] += 1
        self._images += 1

    def _boxes(self, image: ChosenImage) -> Iterable[str]:
        found = image.detections
        percents = ["" if score is None else round(score * 100) for score in found.known_scores(None)]
        corners = clipped_boxes(image).tolist()
        for box_id, category, percent, (left, top, right, bottom), drawn in zip(
            image.box_ids, found.category_ids.tolist(), percents, corners, _designs(image), strict=True
        ):
            yield (
                f'<box label={attribute(self._names[category])} source="auto" occluded="0" xtl="{left:.2f}" '
                f'ytl="{top:.2f}" xbr="{right:.2f}" ybr="{bottom:.2f}" z_order="0">'
                f'<attribute name="{_SCORE}">{percent}</attribute><attribute name="{_BOX}">{box_id}</attribute>'
                f"{drawn}</box>\n"
            )

    def _task(self, split: str) -> str:
        return f"task-{self._number:05d}" if split == ALL else f"{split}-{self._number:05d}"

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        for file in self._files.values():
            file.write("</annotations>\n")
            file.close()
        return {f"{self._task(split)}/annotations.xml": self._paths[split] for split in self._filled()}

    def _filled(self) -> list[str]:
        """Return the splits that have a task here: those with images, or the first one if there are none at all."""
        filled = [split for split, count in self._counts.items() if count]
        return filled or list(self._counts)[:1]


def _attributes(frame: Frame) -> list[dict[str, Any]]:
    """Return the attributes of each label: of its boxes, how they were drawn for a sample, and whose they are."""
    run_id = frame.run.manifest.run_id
    whose = {"name": _RUN, "mutable": False, "input_type": "text", "default_value": run_id, "values": [run_id]}
    return [*_ATTRIBUTES, *([] if frame.selection.sample is None else [_DRAWN]), whose]


def _has_tags(frame: Frame, boxes_per_task: int | None) -> bool:
    return frame.selection.sample is not None or boxes_per_task is not None


def _tag(image: ChosenImage) -> str:
    """Return the tag of a crop, or of an image whose boxes were drawn for a sample; "" for any other."""
    if image.crop is None and image.sampled is None:
        return ""
    values = {ROW: image.row_id, SHOWN: _places(image.places.tolist())}
    if image.sampled is not None:
        values[ASKED] = _asked(image.sampled)
    if image.crop is not None:
        values[CROP] = canonical_json(image.crop.to_json()).decode()
    shown = "".join(
        f'<attribute name="{name}">{content(value)}</attribute>'
        for name, value in values.items()
        if len(value) <= _LONGEST_VALUE
    )
    return f'<tag label="{TASK}" source="auto">{shown}</tag>\n'


def _asked(image: SampledImage) -> str:
    return _places(box.box for box in image.boxes)


def _places(places: Iterable[int]) -> str:
    return " ".join(map(str, sorted(places)))


def _designs(image: ChosenImage) -> list[str]:
    """Return the attribute of each box that says how it was drawn; "" for boxes that were not."""
    drawn = {} if image.sampled is None else {box.box: box.described for box in image.sampled.boxes}
    return [
        f'<attribute name="{_DRAWN["name"]}">{drawn[place]}</attribute>' if place in drawn else ""
        for place in image.places.tolist()
    ]


def _meta(categories: Iterable[Category], attributes_of_boxes: Iterable[Mapping[str, Any]], *, has_tags: bool) -> str:
    """Return the task's labels as annotations.xml names them."""
    own = _described(attributes_of_boxes)
    labels = [_label(category.name, "rectangle", own) for category in categories]
    labels += [_label(TASK, "tag", _described(_OF_TAGS))] if has_tags else []
    shown = "\n".join(labels)
    return f"<meta><task><labels>\n{shown}\n</labels></task></meta>\n"


def _label(name: str, kind: str, attributes: str) -> str:
    return f"<label><name>{content(name)}</name><type>{kind}</type><attributes>{attributes}</attributes></label>"


def _described(attributes: Iterable[Mapping[str, Any]]) -> str:
    return "".join(
        f"<attribute><name>{each['name']}</name><mutable>{each['mutable']}</mutable>"
        f"<input_type>{each['input_type']}</input_type><default_value>{each['default_value']}</default_value>"
        f"<values>{values}</values></attribute>"
        for each, values in ((each, "\n".join(each["values"])) for each in attributes)
    )
