"""The file of a sample for review: which boxes were drawn, by which design, and with which probability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labeler import plain_json, storage
from labeler.digests import canonical_json, digest_of, readable_json
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.thresholds import NEVER, Thresholds, as_written
from labeler.runs import Run, UnitKey

MOST_BOXES = 10_000  # of one sample
SMALLEST_SIDE = 1.0  # pixels: smaller boxes are not drawn
_MAX_BYTES = 64 << 20
_SCORE_TOLERANCE = 1e-5  # files have six digits
Strategy = Literal["estimate", "margin", "disagree", "rare", "suspicious", "random", "mixed"]
STRATEGIES: tuple[Strategy, ...] = ("estimate", "margin", "disagree", "rare", "suspicious", "random", "mixed")


class _SampledPart(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class DrawnBox(_SampledPart):
    """One box of the run.

    Attributes:
        box: position in the row's stored detections.
        design: the strategy that drew it; in a mixed sample its boxes have several.
        stratum, inclusion: number of its stratum, and the probability with which it was drawn; both None for boxes that
            were chosen, not drawn.
        reason: of a suspicious box, what is suspicious.
        pilot: it was in the sample that this one continues, and is not handed out again.
    """

    box: int = Field(ge=0)
    category_id: int
    score: float = Field(ge=0, le=1)
    design: Strategy
    stratum: int | None = Field(default=None, ge=0)
    inclusion: float | None = Field(default=None, gt=0, le=1)
    reason: str | None = None
    pilot: bool = False

    @property
    def described(self) -> str:
        """Return its design in a line, such as `estimate, stratum 2, inclusion 0.0413`."""
        known = (("stratum", self.stratum), ("inclusion", self.inclusion), ("reason", self.reason))
        return ", ".join([self.design, *(f"{name} {value}" for name, value in known if value is not None)])


class SampledImage(_SampledPart):
    """One image with drawn boxes.

    Attributes:
        shard_id, index, unit: its row in the run.
        image_id: as exports number images.
    """

    shard_id: str
    index: int = Field(ge=0)
    unit: int = Field(ge=0)
    image_id: int = Field(ge=1)
    file_name: str
    digest: str | None
    boxes: tuple[DrawnBox, ...] = Field(strict=False)

    @property
    def row_id(self) -> str:
        return f"{self.shard_id}/{self.index:06d}"


class Stratum(_SampledPart):
    """Boxes of the run from this score up to the next stratum's, and how many of them were drawn."""

    lowest_score: float
    boxes: int = Field(ge=1)
    drawn: int = Field(ge=0)


class Population(_SampledPart):
    """The boxes of the run that the sample is about: those that an export with these settings keeps.

    Attributes:
        threshold, thresholds: the common one, and those of categories by id, as files have them.
        suppress: as `labeler export --suppress`; None for off.
        units: digest of the units that were committed, and of what they held.
    """

    threshold: float | Literal["never"]
    thresholds: dict[str, float | Literal["never"]]
    suppress: float | None
    boxes: int = Field(ge=0)
    images: int = Field(ge=0)
    units: str

    def to_thresholds(self) -> Thresholds:
        by_category = {int(id_): NEVER if value == "never" else value for id_, value in self.thresholds.items()}
        return Thresholds(NEVER if self.threshold == "never" else self.threshold, by_category)

    @staticmethod
    def settings_of(thresholds: Thresholds) -> dict[str, Any]:
        """Return `threshold` and `thresholds`."""
        by_id = {str(id_): as_written(value) for id_, value in sorted(thresholds.by_category.items())}
        return {"threshold": as_written(thresholds.default), "thresholds": by_id}


class Sample(_SampledPart):
    """The whole file.

    Attributes:
        labeler_sample: version of the format.
        seed: what the draw depends on beside the run.
        strata: of the boxes that were drawn with a probability; empty where all were chosen.
    """

    labeler_sample: Literal[1] = 1
    run: str
    strategy: Strategy
    seed: int
    population: Population
    strata: tuple[Stratum, ...] = Field(strict=False)
    images: tuple[SampledImage, ...] = Field(strict=False)

    def to_json(self) -> bytes:
        """Return the file; equal samples give equal bytes."""
        return readable_json(self.model_dump(mode="json"))

    @property
    def boxes(self) -> Iterator[tuple[SampledImage, DrawnBox]]:
        """Every box with its image."""
        return ((image, box) for image in self.images for box in image.boxes)


@dataclass(frozen=True, eq=False)
class HandedOut:
    """The part of a sample that goes to people: without the boxes of its pilot.

    Attributes:
        digest: names the sample in tasks.
    """

    sample: Sample
    source: str

    @cached_property
    def digest(self) -> str:
        return digest_of(canonical_json(self.sample.model_dump(mode="json")))

    @cached_property
    def images(self) -> dict[tuple[str, int], SampledImage]:
        """Images by shard id and index, with the boxes that are to be judged now."""
        fresh = (
            image.model_copy(update={"boxes": tuple(box for box in image.boxes if not box.pilot)})
            for image in self.sample.images
        )
        return {(image.shard_id, image.index): image for image in fresh if image.boxes}

    @cached_property
    def units(self) -> list[UnitKey]:
        return sorted({(image.shard_id, image.unit) for image in self.images.values()})

    def places(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Return the places of its images among a unit's rows."""
        keys = zip(table["shard_id"].to_pylist(), table["index"].to_pylist(), strict=True)
        return np.array([place for place, key in enumerate(keys) if key in self.images], np.int64)

    def require_rows(self, rows: int) -> None:
        """Raise Refused if the run has other than this many of the sample's rows: all of them, forgotten ones too."""
        if rows != len(self.images):
            raise Refused(
                f"sample {self.source} has {len(self.images):,} images to hand out and the run only {rows:,} of their "
                "rows; restore the run, or draw another sample"
            )

    def require_boxes(self, image: SampledImage, stored: Detections, shown: npt.NDArray[np.intp]) -> None:
        """Raise Refused if the run's row does not have the boxes that were drawn."""
        kept = set(shown.tolist())
        for box in image.boxes:
            if (
                box.box not in kept
                or int(stored.category_ids[box.box]) != box.category_id
                or abs(float(stored.scores[box.box]) - box.score) > _SCORE_TOLERANCE
            ):
                raise Refused(
                    f"sample {self.source}: the run's row {image.row_id} has other boxes than when box {box.box} of it "
                    "was drawn; draw another sample"
                )

    def describe(self, image: SampledImage) -> dict[str, Any]:
        """Return what a task says of its design."""
        boxes = [
            {"box": f"{image.row_id}/{box.box}"} | box.model_dump(include={"design", "stratum", "inclusion", "reason"})
            for box in image.boxes
        ]
        shown = [{name: value for name, value in box.items() if value is not None} for box in boxes]
        return {"labeler_sample": self.digest, "labeler_strategy": self.sample.strategy, "labeler_boxes": shown}


def describe_sample(data: bytes) -> str | None:
    """Return what a sample file is about; None for any other file."""
    try:
        sample = Sample.model_validate(plain_json.parse(data))
    except (ValueError, ValidationError):
        return None
    boxes = sum(1 for _ in sample.boxes)
    return f"a sample by {sample.strategy} of {boxes:,} boxes of run {sample.run}"


def read_sample(uri: str, run: Run | None = None) -> Sample:
    """Read a sample file, of this run.

    Raises:
        Refused: it cannot be read, is not a sample, contradicts itself, or is of another run.
    """
    shown = storage.redact(uri)
    found = storage.head(uri)
    if found is None:
        raise Refused(f"sample {shown} does not exist; write one with `labeler sample`")
    if found.size > _MAX_BYTES:
        raise Refused(f"sample {shown} has {found.size:,} bytes, too many for a file that `labeler sample` wrote")
    try:
        sample = Sample.model_validate(plain_json.parse(storage.read_bytes(uri)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise Refused(f"sample {shown} is not a file that `labeler sample` wrote: {place}: {first['msg']}") from None
    except ValueError as error:
        raise Refused(f"sample {shown} is not valid JSON: {error}") from None
    if problem := _contradiction(sample):
        raise Refused(f"sample {shown}: {problem}; the file was edited, restore it or draw another sample")
    if run is not None and sample.run != run.manifest.run_id:
        raise Refused(f"sample {shown} is of run {sample.run}, this is run {run.manifest.run_id}")
    if run is not None and (problem := _unknown(sample, run)):
        raise Refused(f"sample {shown}: {problem}; the file was edited, restore it or draw another sample")
    return sample


def _unknown(sample: Sample, run: Run) -> str | None:
    """Return a category that the run does not have; None if it has them all."""
    known = {category.id for category in run.vocabulary().categories if not category.negative}
    for image, box in sample.boxes:
        if box.category_id not in known:
            return f"box {box.box} of {image.row_id} has category {box.category_id}, which the run does not have"
    unknown = sorted(id_ for id_ in sample.population.thresholds if not id_.isdecimal() or int(id_) not in known)
    return f"the run has no category {unknown[0]!r} for its threshold" if unknown else None


def _contradiction(sample: Sample) -> str | None:
    """Return what in a sample cannot be; None if nothing is wrong."""
    drawn = [0] * len(sample.strata)
    rows, boxes = set[tuple[str, int]](), set[tuple[str, int, int]]()
    for image in sample.images:
        rows.add((image.shard_id, image.index))
        boxes.update((image.shard_id, image.index, box.box) for box in image.boxes)
        for box in image.boxes:
            if (box.stratum is None) != (box.inclusion is None) or (box.stratum or 0) >= max(len(drawn), 1):
                return f"box {box.box} of {image.row_id} has stratum {box.stratum} and inclusion {box.inclusion}"
            if box.stratum is not None and box.inclusion is not None:
                drawn[box.stratum] += 1
                stratum = sample.strata[box.stratum]
                if abs(box.inclusion * stratum.boxes - stratum.drawn) > 1e-6 * stratum.boxes:
                    return f"box {box.box} of {image.row_id} has an inclusion that is not its stratum's"
    if len(rows) != len(sample.images) or len(boxes) != sum(len(image.boxes) for image in sample.images):
        return "an image or a box is in it twice"
    wrong = [number for number, stratum in enumerate(sample.strata) if stratum.drawn != drawn[number]]
    return f"stratum {wrong[0]} has {drawn[wrong[0]]} boxes and says otherwise" if wrong else None
