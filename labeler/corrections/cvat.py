"""CVAT for images 1.1, read back: its XML, and which of its images are reviewed, which the XML does not say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from labeler import plain_json, storage
from labeler.corrections.reviewed import COMPLETE, Intake, ReviewedBoxes, row_key, shown_places
from labeler.corrections.shapes import turned
from labeler.corrections.who_reviewed import Reviewers
from labeler.errors import Refused
from labeler.exports.crowded import TaskCrop
from labeler.exports.cvat import ASKED, CROP, ROW, SHOWN, TASK
from labeler.truth.columns import is_id

REVIEWED_TAG = "reviewed"
_SHAPES = frozenset(("polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton"))
_OWN_NAME = re.compile(r"(?:^|/)(\d{6,18})-(\d{6,18})(-crop-\d{2,})?\.\w+$")  # row, and whether it is a part of it
_DESIGN = "labeler_design"  # attribute of the labels of a sample
_PIECE = 1 << 20
_LONGEST_TEXT = 1 << 20  # characters of one element
_DEEPEST = 64


@dataclass(frozen=True)
class Jobs:
    """The frames of each task that belong to completed jobs.

    Attributes:
        ranges: (task id or None for any, first frame, last frame).
    """

    ranges: tuple[tuple[int | None, int, int], ...]

    def has(self, task: int | None, frame: int) -> bool:
        return any(
            first <= frame <= last and (wanted is None or task is None or wanted == task)
            for wanted, first, last in self.ranges
        )


def read_jobs(uri: str) -> Jobs:
    """Read a list of CVAT's jobs, as its SDK and its REST interface give them. Raises Refused."""
    shown = storage.redact(uri)
    try:
        values = plain_json.parse(storage.read_bytes(uri))
    except ValueError as error:
        raise Refused(f"--jobs {shown} are not JSON: {error}") from None
    jobs = values.get("results") if isinstance(values, Mapping) else values
    if not isinstance(jobs, list) or not jobs or not all(_is_job(job) for job in jobs):
        raise Refused(
            f"--jobs {shown} must be a list of jobs with start_frame, stop_frame and state; docs/guides/corrections.md "
            "has the ten lines that write it"
        )
    done = [job for job in jobs if job["state"] == "completed"]
    tasks = {job.get("task_id") for job in jobs}
    return Jobs(
        tuple((job.get("task_id") if len(tasks) > 1 else None, job["start_frame"], job["stop_frame"]) for job in done)
    )


def _is_job(job: Any) -> bool:
    return (
        isinstance(job, Mapping)
        and is_id(job.get("start_frame"))
        and is_id(job.get("stop_frame"))
        and isinstance(job.get("state"), str)
        and (job.get("task_id") is None or is_id(job["task_id"]))
    )


def read_cvat(uri: str, intake: Intake, jobs: Jobs | None, reviewers: Reviewers) -> None:
    """Read an annotations.xml into `intake`; memory holds one image of it.

    Raises:
        Refused: not such a file, one of another run, or nothing says which of its images are reviewed.
    """
    reader = _ElementReader(intake, jobs, reviewers)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.refuse_doctype  # with it go entities, and what they can grow to
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.buffer_text = True
    try:
        with storage.open_stream(uri) as stream:
            while data := stream.read(_PIECE):
                parser.Parse(data, False)
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise _not_cvat(intake.source, f"not XML ({error})") from None
    except UnicodeDecodeError as error:
        raise _not_cvat(intake.source, f"not XML ({error.reason})") from None
    reader.finish()


def _not_cvat(source: str, why: str) -> Refused:
    return Refused(f"corrections {source} are {why}; give the annotations.xml that CVAT exports as CVAT for images 1.1")


@dataclass
class _GrowingImage:
    """An image while it is read."""

    name: str
    frame: int | None
    task: int | None
    size: tuple[int, int] | None
    where: str
    shapes: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)  # tag, attributes, own ones
    tags: set[str] = field(default_factory=set)
    about: dict[str, str] | None = None  # attributes of the tag that the export gave it


class _ElementReader:
    """Takes the elements of the document one by one."""

    def __init__(self, intake: Intake, jobs: Jobs | None, reviewers: Reviewers) -> None:
        self._intake, self._jobs, self._reviewers = intake, jobs, reviewers
        self._path: list[str] = []
        self._image: _GrowingImage | None = None
        self._text: list[str] = []
        self._length = 0
        self._attribute = ""  # of a label of the task
        self._attributes: dict[str, str] | None = None  # of the shape or tag that is read
        self._is_sample = False
        self._images = self._tagged = 0

    def refuse_doctype(self, *_: Any) -> None:
        raise _not_cvat(self._intake.source, "XML with a document type, which may hold entities")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "annotations":
            raise _not_cvat(self._intake.source, f"not CVAT's annotations (the document is <{tag[:40]}>)")
        if len(self._path) >= _DEEPEST:
            raise _not_cvat(self._intake.source, f"nested more than {_DEEPEST} levels deep")
        self._path.append(tag)
        self._text, self._length = [], 0
        if tag == "track" and len(self._path) == 2:
            raise _not_cvat(self._intake.source, "tracks of a video")
        if tag == "image" and len(self._path) == 2:
            self._image = self._begin(attributes)
        elif self._image is not None and len(self._path) == 3:
            self._attributes = {}
            if tag != "tag":
                self._image.shapes.append((tag, attributes, self._attributes))
            elif attributes.get("label") == TASK:
                self._image.about = self._attributes
            else:
                self._image.tags.add(attributes.get("label", ""))
        elif self._image is not None and tag == "attribute" and len(self._path) == 4:
            self._attribute = attributes.get("name", "")

    def text(self, text: str) -> None:
        self._length += len(text)
        if self._length > _LONGEST_TEXT:
            raise _not_cvat(self._intake.source, "XML with a text of more than a million characters")
        self._text.append(text)

    def end(self, tag: str) -> None:
        depth, text = len(self._path), "".join(self._text).strip()
        self._text, self._length = [], 0
        self._path.pop()
        if self._image is not None and depth == 4 and tag == "attribute" and self._attributes is not None:
            self._attributes[self._attribute] = text
        elif self._image is not None and depth == 2:
            self._take(self._image)
            self._image = None
        elif self._image is None and self._path[-1:] == ["attribute"]:  # of a label, in the head
            if tag == "name":
                self._attribute = text
                self._is_sample |= text == _DESIGN
            elif tag == "default_value" and self._attribute == "labeler_run":
                self._intake.require_run(text)

    def _begin(self, attributes: Mapping[str, str]) -> _GrowingImage:
        self._images += 1
        name = attributes.get("name", "")
        sides = [_whole(attributes.get(side)) for side in ("height", "width")]
        size = (sides[0], sides[1]) if sides[0] and sides[1] else None
        frame, task = _whole(attributes.get("id")), _whole(attributes.get("task_id"))
        return _GrowingImage(name, frame, task, size, f"image {attributes.get('id', '?')[:20]} ({name[:80]})")

    def _take(self, image: _GrowingImage) -> None:
        self._tagged += REVIEWED_TAG in image.tags
        if not self._is_reviewed(image):
            self._intake.unreviewed += 1
            return
        about, own = image.about or {}, _OWN_NAME.search(image.name)
        if problem := self._lost(image, own):
            self._intake.problems.append(f"{image.where}: {problem}")
            return
        # Without a tag the file name says which row it is: pasted boxes keep the id of another image's box.
        boxes = ReviewedBoxes(row_key(about.get(ROW)))
        for tag, attributes, ids in image.shapes:
            corners = self._corners(tag, attributes, image.where)
            if corners is not None:
                boxes.add(corners, attributes.get("label", ""), ids.get("labeler_box"))
        self._intake.images.append(
            boxes.image(
                where=image.where,
                name=image.name,
                digest="",
                state=COMPLETE,
                size=image.size,
                shown=_places(about.get(SHOWN)),
                asked=_places(about.get(ASKED)),
                crop=self._crop(about.get(CROP), image.where),
            )
        )

    def _lost(self, image: _GrowingImage, own: re.Match[str] | None) -> str | None:
        """Return what is wrong with the tag that a crop, or an image of a sample, went out with; None if nothing is."""
        about = image.about or {}
        again = f"give the image its tag `{TASK}` again, as the task's annotations.xml has it"
        if own is not None and own[3] and not about.get(CROP):
            return f"a crop that does not say of which part it is; {again}"
        if self._is_sample and _places(about.get(ASKED)) is None:
            return f"an image of a sample that does not say which boxes were asked about; {again}"
        row = row_key(about.get(ROW))
        if own is not None and row is not None and row != (own[1], int(own[2])):
            return f"its tag `{TASK}` is that of image {about[ROW][:40]}; {again}"
        return None

    def _crop(self, text: str | None, where: str) -> TaskCrop | None:
        if not text:
            return None
        try:
            return self._intake.crop(plain_json.parse(text.encode()), where)
        except ValueError:
            self._intake.problems.append(f"{where}: `{CROP}` of its tag is not JSON")
            return None

    def _is_reviewed(self, image: _GrowingImage) -> bool:
        if self._reviewers.has(image.name) or REVIEWED_TAG in image.tags:
            return True
        return self._jobs is not None and image.frame is not None and self._jobs.has(image.task, image.frame)

    def _corners(self, tag: str, attributes: Mapping[str, str], where: str) -> list[float] | None:
        if tag not in ("box", *_SHAPES):
            self._intake.problems.append(f"{where}: <{tag[:40]}> is not a shape; draw rectangles")
            return None
        try:
            if tag == "box":
                x1, y1, x2, y2 = (_number(attributes[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
                degrees = _number(attributes.get("rotation", "0"))
                if degrees % 360:
                    return self._intake.upright(turned((x1, y1, x2, y2), degrees), where, "a rotated box")
                return [x1, y1, x2, y2]
            points = _AROUND.get(tag, _points)(attributes)
        except (KeyError, ValueError):
            self._intake.problems.append(f"{where}: a {tag} whose corners are not numbers")
            return None
        return self._intake.upright(points, where, f"a {tag}")

    def finish(self) -> None:
        told = self._jobs is not None or self._reviewers.tells or self._tagged
        if self._images and not told:
            raise Refused(
                f"corrections {self._intake.source}: CVAT's XML does not say which images were reviewed; add --jobs "
                f"jobs.json (docs/guides/corrections.md), tag images `{REVIEWED_TAG}`, or say --reviewed all|FILE"
            )


def _places(text: str | None) -> frozenset[int] | None:
    """The places that an attribute lists; None without it. CVAT gives back "" for one that an image does not have."""
    return shown_places(text) if text else None


def _points(attributes: Mapping[str, str]) -> list[list[float]]:
    points = [[_number(value) for value in pair.split(",")] for pair in attributes["points"].split(";")]
    if any(len(point) != 2 for point in points):
        raise ValueError
    return points


def _ellipse(attributes: Mapping[str, str]) -> list[list[float]]:
    x, y, across, down = (_number(attributes[name]) for name in ("cx", "cy", "rx", "ry"))
    return [[x - across, y - down], [x + across, y + down]]


def _mask(attributes: Mapping[str, str]) -> list[list[float]]:
    left, top, width, height = (_number(attributes[name]) for name in ("left", "top", "width", "height"))
    return [[left, top], [left + width, top + height]]


_AROUND: dict[str, Callable[[Mapping[str, str]], list[list[float]]]] = {"ellipse": _ellipse, "mask": _mask}


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e9:
        raise ValueError
    return value


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else None
