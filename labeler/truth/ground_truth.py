"""Ground ground truth in COCO's or LVIS's format, read into arrays and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import storage
from labeler.errors import Refused, StorageError, first_lines
from labeler.json_stream import JsonStream
from labeler.plain_json import NotPlainJson
from labeler.truth.columns import Columns
from labeler.vocabulary import Category

Ints = npt.NDArray[np.int32]
Keys = npt.NDArray[np.int64]
Annotations = str | Path | Mapping[str, Any]
MAX_PROBLEMS = 20  # lines printed; a file with one mistake often has it a million times


@dataclass(frozen=True)
class Federated:
    """LVIS's statements about images beyond their objects, as `GroundTruth.keys`.

    Attributes:
        negative: sorted keys, categories verified to be absent from the image (`neg_category_ids`).
        not_exhaustive: sorted keys, categories not all of whose objects are marked (`not_exhaustive_category_ids`).
    """

    negative: Keys
    not_exhaustive: Keys


@dataclass(frozen=True)
class GroundTruth:
    """Images, categories and objects; the objects' columns point at positions in the first two.

    Attributes:
        source: for messages.
        image_ids: (images,) int64, rising.
        file_names: one for each image; for LVIS v1, which has none, the end of `coco_url` ("val2017/000000397133.jpg").
        sizes: (images, 2) int32 height and width, 0 where not said.
        categories: by rising id; `phrases` is empty.
        image, category: (objects,) int32 positions, in file order.
        boxes_xywh: (objects, 4) float64 pixels.
        areas: (objects,) float64 square pixels: the file's (of the mask, in COCO), else the box's.
        crowd, ignore: (objects,) bool, `iscrowd` and LVIS's `ignore`.
        masks: (objects,) RLE objects {size, counts}, or None when they were not read.
        federated: None for data sets where everything is marked.
        digests: of each image's bytes, "" where not known; empty if the source has none.
    """

    source: str
    image_ids: npt.NDArray[np.int64]
    file_names: tuple[str, ...]
    sizes: Ints
    categories: tuple[Category, ...]
    image: Ints
    category: Ints
    boxes_xywh: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]
    ignore: npt.NDArray[np.bool_]
    masks: npt.NDArray[np.object_] | None
    federated: Federated | None
    digests: tuple[str, ...] = ()

    def keys(self, image: npt.ArrayLike, category: npt.ArrayLike) -> Keys:
        """Return one int64 for each (image, category) pair of positions; rising with image, then category."""
        return np.asarray(image, np.int64) * len(self.categories) + np.asarray(category, np.int64)

    def objects_by_category(self) -> npt.NDArray[np.int64]:
        """Return (categories,) number of objects, crowds and ignored ones included."""
        return np.bincount(self.category, minlength=len(self.categories))

    def only_objects(self, kept: npt.NDArray[np.bool_]) -> GroundTruth:
        """Return the same images and categories with some of their objects."""
        return replace(
            self,
            image=self.image[kept],
            category=self.category[kept],
            boxes_xywh=self.boxes_xywh[kept],
            areas=self.areas[kept],
            crowd=self.crowd[kept],
            ignore=self.ignore[kept],
            masks=None if self.masks is None else self.masks[kept],
        )

    def only(self, images: npt.NDArray[np.bool_], categories: npt.NDArray[np.bool_]) -> GroundTruth:
        """Return the part about some images and categories; both are masks over positions."""
        kept = self.only_objects(images[self.image] & categories[self.category])
        new_image = np.cumsum(images, dtype=np.int32) - 1
        new_category = np.cumsum(categories, dtype=np.int32) - 1
        part = replace(
            kept,
            image_ids=self.image_ids[images],
            file_names=tuple(name for name, keep in zip(self.file_names, images, strict=True) if keep),
            digests=tuple(digest for digest, keep in zip(self.digests, images, strict=False) if keep),
            sizes=self.sizes[images],
            categories=tuple(c for c, keep in zip(self.categories, categories, strict=True) if keep),
            image=new_image[kept.image],
            category=new_category[kept.category],
        )
        if self.federated is None:
            return part

        def moved(keys: Keys) -> Keys:
            image, category = np.divmod(keys, len(self.categories))
            keep = images[image] & categories[category]
            return part.keys(new_image[image[keep]], new_category[category[keep]])

        return replace(part, federated=Federated(moved(self.federated.negative), moved(self.federated.not_exhaustive)))


def read_ground_truth(annotations: Annotations, *, masks: bool = False) -> GroundTruth:
    """Read a COCO or LVIS annotation file.

    The file is streamed: memory holds 60 bytes an object, 500 an image, and with masks the segmentations beside that.

    Args:
        annotations: path, URL, or the parsed content.
        masks: also read `segmentation`.

    Raises:
        Refused: not such a file; `problems` names single entries by their place.
        StorageError: it cannot be read.
    """
    if isinstance(annotations, Mapping):
        return parse_ground_truth(elements_of(annotations.items()), source="annotations", masks=masks)
    uri = str(annotations)
    shown = storage.redact(uri)
    try:
        with storage.open_stream(uri) as stream:
            return parse_ground_truth(elements_of(JsonStream(stream).members()), source=shown, masks=masks)
    except StorageError as error:
        raise StorageError(f"annotations {error}") from error
    except NotPlainJson as error:
        raise Refused(f"annotations {shown} are not a JSON object: {error}; give a COCO or LVIS json") from None


def elements_of(members: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (key, element) for each element of lists, (key, value) for other members."""
    for key, value in members:
        if isinstance(value, list | tuple | Iterator):
            yield from ((key, element) for element in value)
        else:
            yield key, value


def parse_ground_truth(members: Iterable[tuple[str, Any]], *, source: str, masks: bool = False) -> GroundTruth:
    """Ground ground truth from (key, element) pairs of the file's lists, in any order. Raises Refused."""
    columns = Columns(masks)
    for key, element in members:
        columns.add(key, element)
    return truth_of(columns, source)


def truth_of(columns: Columns, source: str) -> GroundTruth:
    """Ground ground truth from all of a file's entries. Raises Refused with everything that is wrong."""
    problems = columns.problems
    if not problems and not columns.images:
        problems.append("no images in it")
    if not problems and not columns.categories:
        problems.append("no categories in it")
    truth = None if problems else _assemble(columns, source)
    if problems or truth is None:
        raise refuse(f"annotations {source}", problems)
    return truth


def refuse(source: str, problems: Sequence[str], *, advice: str = "") -> Refused:
    """Return the one error for all problems; `source` begins with what it is ("annotations gt.json")."""
    hint = f"; {advice}" if advice else ""
    if len(problems) == 1:
        return Refused(f"{source}: {problems[0]}{hint}")
    return Refused(f"{source}: {len(problems):,} problems{hint}", first_lines(problems, MAX_PROBLEMS))


def _assemble(columns: Columns, source: str) -> GroundTruth | None:
    """Return the arrays; None when objects point at images or categories that are not there (then `problems` says
    which).
    """
    images = sorted(columns.images, key=lambda image: image.id)
    categories = tuple(sorted(columns.categories, key=lambda category: category.id))
    image_ids = np.array([image.id for image in images], np.int64)
    category_ids = np.array([category.id for category in categories], np.int64)
    image = _positions(columns, "image", image_ids)
    category = _positions(columns, "category", category_ids)
    columns.problems += _repeated("annotation", np.sort(np.frombuffer(columns.annotation_ids, np.int64)))
    if columns.problems:
        return None
    boxes = np.frombuffer(columns.boxes, np.float64).reshape(-1, 4)
    areas = np.frombuffer(columns.areas, np.float64)
    sizes = np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2)
    truth = GroundTruth(
        source=source,
        image_ids=image_ids,
        file_names=tuple(image.file_name for image in images),
        sizes=sizes,
        categories=categories,
        image=image,
        category=category,
        boxes_xywh=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.frombuffer(columns.crowd, np.int8).astype(np.bool_),
        ignore=np.frombuffer(columns.ignore, np.int8).astype(np.bool_),
        masks=_masks(columns, sizes, image),
        federated=None,
    )
    if not any(image.federated for image in images):
        return truth
    found = [_keys(truth, [getattr(image, name) for image in images]) for name in ("negative", "not_exhaustive")]
    return replace(truth, federated=Federated(*found))


def _positions(columns: Columns, what: str, known: npt.NDArray[np.int64]) -> Ints:
    """Return ids of the objects' images or categories -> positions in the sorted `known` ids; others
    become problems.
    """
    ids = np.frombuffer(getattr(columns, f"{what}_ids"), np.int64)
    columns.problems += _repeated(what, known)
    position = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    for row in np.flatnonzero(known[position] != ids).tolist():
        columns.problems.append(f"annotations[{row}]: {what}_id {ids[row]} matches no {what} of the file")
    return position.astype(np.int32)


def _repeated(what: str, ids: npt.NDArray[np.int64]) -> list[str]:
    """Return a problem for each id that is used more than once; `ids` are sorted."""
    return [f"{what} id {id_} is used twice" for id_ in np.unique(ids[1:][ids[1:] == ids[:-1]]).tolist()]


def _keys(truth: GroundTruth, ids_by_image: list[tuple[int, ...]]) -> Keys:
    """Return sorted keys of the category ids said of each image; an id that is not a category is dropped, as
    it marks nothing.
    """
    known = np.array([category.id for category in truth.categories], np.int64)
    image = np.repeat(np.arange(len(ids_by_image)), [len(ids) for ids in ids_by_image])
    ids = np.array([id_ for ids in ids_by_image for id_ in ids], np.int64)
    position = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    valid = known[position] == ids
    return np.unique(truth.keys(image[valid], position[valid]))


def _masks(columns: Columns, sizes: Ints, image: Ints) -> npt.NDArray[np.object_] | None:
    if columns.segmentations is None:
        return None
    from labeler.truth.rles import to_rles

    masks = to_rles(columns.segmentations, sizes[image])
    for row in [row for row, mask in enumerate(masks) if mask is None]:
        height, width = sizes[image[row]].tolist()
        expected = f"polygons, or an RLE whose runs fill {height} x {width} pixels"
        columns.problems.append(f"annotations[{row}]: `segmentation` must be {expected}")
    return masks
