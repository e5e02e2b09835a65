"""`labeler report`: a run as one HTML file, to look at it, choose thresholds and mark boxes right or wrong."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeler import storage
from labeler.errors import Refused
from labeler.images import MAX_PIXELS
from labeler.labels.contact_sheet import colour_of
from labeler.labels.thresholds import KEYS, Thresholds, as_written
from labeler.review import page
from labeler.review.image_bytes import ImageReader
from labeler.review.pictures import Pick, describe_boxes, read_rows, thumbnails
from labeler.review.reservoir import Ints, in_turns, interleave
from labeler.review.survey import BANDS, SUSPICIONS, Survey, survey_run
from labeler.review.truth import Truth, judge_run
from labeler.runs import Snapshot, UnitKey
from labeler.runs.fitted_on import fitted_on
from labeler.runs.timeline import timeline
from labeler.truth.ground_truth import Annotations

MAX_BYTES = 19_000_000  # of the file: mail and browsers take it
_SETTING_CHARACTERS = 240
_SCRIPTS = ("page.js", "pictures.js", "viewer.js", "report.js", "gallery.js", "truth.js", "reviews.js", "start.js")
_WHERE_NOTHING_IS_KEPT = 0.3  # where all are excluded every object would be a miss, and nothing could be suspicious


@dataclass(frozen=True)
class ReportSummary:
    """Result of writing a report.

    Attributes:
        images: shown with a thumbnail.
        unreadable: of the images that were to be shown.
        left_out: would have been shown in a larger file.
    """

    images: int
    unreadable: int
    left_out: int
    size_bytes: int


def write_report(
    snapshot: Snapshot,
    target_uri: str,
    *,
    thresholds: Thresholds,
    max_images: int = 400,
    max_bytes: int = MAX_BYTES,
    annotations: Annotations | None = None,
    by_name: bool = False,
    partial: bool = False,
    seed: int = 0,
) -> ReportSummary:
    """Survey the run, draw a sample of its images, and write the page.

    Reads every unit file once (with annotations three times more), then only the sampled images' bytes. Memory does
    not grow with the number of images, but with annotations as `evaluate_run` says.

    Args:
        thresholds: where the sliders start; a box below its own makes no image suspicious and is not an error.
        max_images: thumbnails; the file ends earlier where `max_bytes` is reached.
        annotations: COCO or LVIS json of some of the run's images.
        by_name, partial: about the annotations, see `evaluate_run`.

    Raises:
        Refused: the annotations do not fit the run, or nothing is committed yet.
    """
    judged_at = thresholds if thresholds.keep_any else Thresholds(_WHERE_NOTHING_IS_KEPT)
    survey = survey_run(snapshot, thresholds=judged_at, seed=seed)
    if not survey.units:
        raise Refused(f"run {storage.redact(snapshot.run.uri)} has no committed unit yet; there is nothing to report")
    truth = None
    if annotations is not None:
        truth = judge_run(snapshot, annotations, thresholds=judged_at, by_name=by_name, partial=partial, seed=seed)
    picks = pick_images(survey, truth, max_images, seed=seed)
    data = describe_run(snapshot, survey, thresholds)
    if truth is not None:
        data["truth"] = truth.curves
    head = page.dump(data)
    shown = _Images(snapshot, truth)
    images = shown.within(picks, max_bytes - len(head) - 120_000)  # the template, style and script
    written = page.render(
        template="report.html",
        scripts=_SCRIPTS,
        title=f"Report of run {snapshot.run.manifest.run_id[:8]}",
        data=f'{head[:-1]},"images":[{",".join(images)}]}}',
    )
    storage.put(target_uri, written)
    return ReportSummary(len(images) - shown.unreadable, shown.unreadable, len(picks) - len(images), len(written))


class _Images:
    """Turns picks into the page's images, until the room is spent."""

    def __init__(self, snapshot: Snapshot, truth: Truth | None) -> None:
        self._progress, self._truth, self._score = snapshot.progress, truth, snapshot.score
        self._reader = ImageReader(snapshot)
        self._prefixes = snapshot.prefixes
        self._max_pixels = int(snapshot.run.manifest.fingerprint_fields.get("detect.max_pixels") or MAX_PIXELS)
        self.unreadable = 0

    def within(self, picks: Sequence[Pick], room_bytes: int) -> list[str]:
        """JSON of each image, in order; every image that fits, none after the first that does not."""
        tables = read_rows(self._progress, ((pick.unit, pick.row) for pick in picks))
        rows = {place: self._score.swap(table).to_pylist()[0] for place, table in tables.items()}
        chosen = [rows[pick.unit, pick.row] for pick in picks]
        described = [self._describe(pick, row) for pick, row in zip(picks, chosen, strict=True)]
        boxes = [{box[0]: box[3:] for box in one["boxes"] if box[0] in one["drawn"]} for one in described]
        found: list[str] = []
        pictures = thumbnails(self._reader, chosen, max_pixels=self._max_pixels, boxes=boxes)
        for about, picture in zip(described, pictures, strict=False):
            text = page.dump(about | picture)
            room_bytes -= len(text) + 1
            if room_bytes < 0:
                break
            self.unreadable += "problem" in picture
            found.append(text)
        return found

    def _describe(self, pick: Pick, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self._prefixes[row["shard_id"]] + row["image_key"],
            "key": f"{row['shard_id']}/{row['index']}",
            "digest": row["digest"],
            "width": row["width"],
            "height": row["height"],
            "drawn": sorted(pick.boxes),
            "by_chance": sorted(pick.by_chance),
            "reasons": sorted(pick.reasons),
            **describe_boxes(row["detections"], pick.boxes),
            **(self._truth.objects_in(pick.unit, pick.row) if self._truth else {}),
        }


def pick_images(survey: Survey, truth: Truth | None, max_images: int, *, seed: int = 0) -> list[Pick]:
    """The images to show, the most wanted first: a quarter for suspicions, a quarter for errors, half for galleries.

    Each kind of suspicion, each category's errors, and each category and score band has its turns, rare categories
    too; what one does not use is the others'. An image that is wanted twice is taken once.
    """
    suspicious = _queue(survey.suspicious, survey.units, lambda kind: (kind, 0), "suspicious")
    errors = _queue(truth.errors, truth.units, lambda group: (group % 2, group // 2), "error") if truth else {}
    cells = _queue(survey.drawn, survey.units, lambda cell: (cell % len(BANDS), cell // len(BANDS)), "cell")
    wanted = [(weight, in_turns(queues, seed=seed)) for weight, queues in ((1, suspicious), (1, errors), (2, cells))]
    picks: dict[tuple[UnitKey, int], Pick] = {}
    for why, kind, (unit, row, box) in interleave(wanted):
        if (unit, row) not in picks and len(picks) >= max_images:
            continue
        pick = picks.setdefault((unit, row), Pick(unit, row))
        pick.boxes |= {box} if box >= 0 else set()
        if why == "cell":
            pick.by_chance.add(box)
        else:
            pick.reasons.add(SUSPICIONS[kind] if why == "suspicious" else "truth")
    return list(picks.values())


_Wanted = tuple[str, int, tuple[UnitKey, int, int]]  # why, kind within it, and what


def _queue(
    sample: tuple[Ints, Ints], units: Sequence[UnitKey], name: Callable[[int], tuple[int, int]], why: str
) -> dict[tuple[int, int], list[_Wanted]]:
    """A sample's entries by the (kind, member) that `name` makes of their group."""
    queues: dict[tuple[int, int], list[_Wanted]] = defaultdict(list)
    for group, (unit, row, box) in zip(sample[0].tolist(), sample[1].tolist(), strict=True):
        queues[name(group)].append((why, name(group)[0], (units[unit], row, box)))
    return queues


def describe_run(snapshot: Snapshot, survey: Survey, thresholds: Thresholds) -> dict[str, Any]:
    """All of the page's data but the images and the ground truth."""
    run, plan, progress = snapshot.run, snapshot.plan, snapshot.progress
    config, fields = run.manifest.config, run.manifest.fingerprint_fields
    floor = config["detect"].get("score_floor", fields.get("detect.score_floor", 0.0))
    planned, exact = progress.images_known(plan)
    return {
        "run": {
            "id": run.manifest.run_id,
            "uri": storage.redact(run.uri),
            "created": run.manifest.created,
            "model": config["model"]["name"],
            "revision": config["model"].get("revision"),
            "complete": snapshot.is_complete,
            "shards": len(plan),
            "shards_finished": len(plan) - len(snapshot.left),
            "units": progress.committed_units,
            "images": sum(survey.statuses.values()),
            "images_planned": planned,
            "images_planned_exact": exact,
            "cap": config["detect"]["max_detections"],
            "at_cap": survey.at_cap,
        },
        "fitted_on": fitted_on(run, snapshot.score),
        "score": snapshot.score.name,
        "threshold_keys": KEYS,
        "floor": floor if snapshot.score.is_detectors else 0.0,
        "bands": list(BANDS),
        "unscored": survey.unscored,
        "statuses": [[status, count] for status, count in survey.statuses.items()],
        "reasons": survey.reasons,
        "timeline": timeline(survey.timeline),
        "work": survey.work.summary(),
        "reviews": survey.reviews.describe(run),
        "settings": run_settings(config),
        "negatives": [category.name for category in run.vocabulary().categories if category.negative],
        "thresholds": {
            "default": as_written(thresholds.default),
            "categories": {str(id_): as_written(value) for id_, value in thresholds.by_category.items()},
        },
        "categories": [
            {
                "id": category.id,
                "name": category.name,
                "colour": colour_of(category.name),
                "scores": {str(step): count for step, count in enumerate(counts) if count},
                **({} if category.phrases == (category.name,) else {"phrases": list(category.phrases)}),
            }
            for category, counts in zip(survey.categories, survey.histograms.tolist(), strict=True)
        ],
    }


def run_settings(config: Mapping[str, Any], within: str = "") -> list[list[str]]:
    """The run's settings as [dotted key, value], long values cut: a vocabulary may be a list of 10,000 names."""
    found: list[list[str]] = []
    for name, value in config.items():
        key = f"{within}{name}"
        if isinstance(value, Mapping) and value:
            found += run_settings(value, f"{key}.")
        else:
            text = storage.redact(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            )
            found.append([key, text if len(text) <= _SETTING_CHARACTERS else f"{text[:_SETTING_CHARACTERS]}…"])
    return found
