"""A calibration as thresholds.yaml, with what it was fitted on; and as lines for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from labeler import plain_yaml
from labeler.calibration.fit import Calibration, FittedThreshold, Interval
from labeler.calibration.scale import KEY
from labeler.digests import digest_of
from labeler.labels.chosen_score import DETECTORS, ChosenScore
from labeler.labels.thresholds import KEYS, NEVER, as_written
from labeler.runs import Run
from labeler.runs.fitted_on import fitted_on

_HEAD = "# Fitted by `labeler calibrate`, for runs of the same model, prompts and vocabulary only.\n"
_ALL = "all categories together"
_SHOWN = 3
_ROWS = 20  # of the table, without --all
_SEAL = "# While its digest is {}, `labeler calibrate` may replace this file.\n"


def to_yaml(calibration: Calibration, run: Run, *, source: str, score: ChosenScore = DETECTORS) -> bytes:
    """The file that `export --thresholds` and `evaluate --thresholds` take.

    `default` is the fallback, and also holds for categories that nothing was known of.

    Args:
        score: that the thresholds were fitted on.
    """
    by_id, target = run.vocabulary().by_id, calibration.target
    document = {
        "default": as_written(calibration.fallback.threshold),
        "categories": {by_id[_id(c)].name: as_written(c.threshold) for c in calibration.choices if c.status != "rare"},
        "fitted_on": fitted_on(run, score),
        "calibration": {
            "target": {target.measure: target.value},
            "confidence": target.confidence,
            "min_judged": target.min_judged,
            "source": source,
            "fallback": {"fitted_on": calibration.fallback_of, **_numbers(calibration.fallback)},
            "categories": {by_id[_id(c)].name: _numbers(c) for c in calibration.choices},
            KEY: calibration.scale.to_dict(),
        },
    }
    text: str = yaml.safe_dump({key: document[key] for key in KEYS}, sort_keys=False, allow_unicode=True, width=120)
    return (_HEAD + _SEAL.format(digest_of(text.encode())) + text).encode()


def describe_unedited(data: bytes) -> str | None:
    """Return what a file was fitted for and on; None if it is not one of `to_yaml`, or was edited since."""
    try:
        text = data.decode()
        body = text.split("\n", 2)[2]
        if text != _HEAD + _SEAL.format(digest_of(body.encode())) + body:
            return None
        fitted = plain_yaml.parse(body)[0]["calibration"]
        ((measure, value),), source = fitted["target"].items(), fitted["source"]
    except (ValueError, LookupError, TypeError, AttributeError, plain_yaml.NotPlainYaml):
        return None
    return f"the file for {measure}={value:g} from {source}"


def _id(choice: FittedThreshold) -> int:
    if choice.category_id is None:
        raise ValueError("the fallback is of no category")
    return choice.category_id


def _numbers(choice: FittedThreshold) -> dict[str, Any]:
    values: dict[str, Any] = {
        "status": choice.status,
        "threshold": as_written(choice.threshold),
        "judged": choice.judged,
    }
    for name, interval in (("precision", choice.precision), ("recall", choice.recall)):
        if interval is not None:
            values[name] = [round(v, 4) for v in (interval.value, interval.low, interval.high)]
    if choice.shortfall is not None:
        values["best"] = {name: round(getattr(choice.shortfall, name), 4) for name in ("threshold", "value", "low")}
    return values


def describe(calibration: Calibration, run: Run, *, all_rows: bool = False) -> list[str]:
    """A line for each category, what the fallback is, and how many there are of each kind.

    With many categories only the worst and the most judged have a line, unless `all_rows`.
    """
    by_id, target = run.vocabulary().by_id, calibration.target
    names = [by_id[_id(c)].name for c in calibration.choices]
    width = max([len("category"), *map(len, names)])
    lines = [
        f"target: {target.measure} >= {target.value:g} with {target.confidence:.0%} confidence; intervals are 95%",
        f"{'category':{width}}  threshold  judged  {'precision':22}  {'recall':22}",
    ]
    rows = list(zip(names, calibration.choices, strict=True))
    shown = range(len(rows)) if all_rows else _chosen(calibration.choices)
    for name, choice in (rows[place] for place in shown):
        lines.append(f"{name:{width}}  {_row(choice)}{_why(choice, target.min_judged)}")
    lines.append(f"{'(fallback)':{width}}  {_row(calibration.fallback)}  of {calibration.fallback_of}")
    lines.append(_total(calibration.choices, len(rows) - len(shown)))
    unknown = [c.name for c in run.vocabulary().categories if not c.negative and c.name not in set(names)]
    if unknown:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        lines.append(f"{len(unknown):,} categories were not judged at all and take the fallback: {some}")
    if not calibration.suppressed:
        lines.append("note: export also applies class-agnostic NMS (--suppress), which these numbers do not include")
    if calibration.keeps_nothing:
        lines += _advice(calibration, dict(zip(names, calibration.choices, strict=True)))
    return [line.rstrip() for line in lines]


def _chosen(choices: Sequence[FittedThreshold]) -> Sequence[int]:
    """Places of the rows of a short table, rising: all if they are few, else the worst and the most judged ones."""
    if len(choices) <= _ROWS:
        return range(len(choices))
    judged = sorted(range(len(choices)), key=lambda place: (-choices[place].judged, place))
    worst = sorted(judged, key=lambda place: -choices[place].threshold)[
        : _ROWS // 2
    ]  # excluded first, then the highest
    rest = [place for place in judged if place not in worst][: _ROWS - len(worst)]
    return sorted(worst + rest)


def _total(choices: Sequence[FittedThreshold], hidden: int) -> str:
    counts = Counter(choice.status for choice in choices)
    kinds = {
        "with a threshold of their own": counts["fitted"],
        "rare: the fallback": counts["rare"],
        "excluded": counts["unreachable"] + counts["refuted"],
    }
    judged = sum(choice.judged for choice in choices)
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    not_shown = f"; {hidden:,} are not shown (--all shows them, the file has all)" if hidden else ""
    return f"{len(choices):,} categories, {judged:,} boxes judged: {parts}{not_shown}"


def _advice(calibration: Calibration, by_name: Mapping[str, FittedThreshold]) -> list[str]:
    """Return what to do about a calibration that leaves everything out: the best there is, and what to judge next."""
    target = calibration.target
    lines = [
        "warning: nothing reaches the target, every category is excluded, and an export with this file keeps no box"
    ]
    known = {name: c.shortfall for name, c in by_name.items() if c.shortfall}
    if len(by_name) > 1 and calibration.fallback.shortfall:
        known[_ALL] = calibration.fallback.shortfall
    if not known:
        return [*lines, "nothing is known of any category; have more boxes judged"]
    name, best = max(known.items(), key=lambda item: item[1].low)
    lines.append(
        f"best reached: {target.measure} {best.value:.3f}, at {target.confidence:.0%} confidence at least "
        f"{best.low:.3f}, of {name} from score {best.threshold:.2f}: "
        f"ask for {target.measure}={math.floor(best.low * 100) / 100:g}"
    )
    reachable = sorted((short.more, name, short.more_from) for name, short in known.items() if short.more is not None)
    for more, name, start in reachable[:_SHOWN]:
        things = "boxes with scores" if target.measure == "precision" else "objects; found are those"
        lines.append(f"or judge next: about {more:,} more {things} from {start:.2f} of {name}, if as many are right")
    if not reachable:
        lines.append(f"more judging does not help: no category has a {target.measure} above {target.value:g} anywhere")
    return lines


def _row(choice: FittedThreshold) -> str:
    threshold = "    never" if choice.threshold >= NEVER else f"{choice.threshold:9.2f}"
    return f"{threshold}  {choice.judged:>6,}  {_text(choice.precision):22}  {_text(choice.recall):22}"


def _why(choice: FittedThreshold, min_judged: int) -> str:
    best = choice.shortfall
    reached = "" if best is None else f" (best {best.value:.3f} from {best.threshold:.2f})"
    if choice.status == "rare":
        return f"  rare (fewer than {min_judged}): the fallback"
    if choice.status == "refuted":
        return f"  rare (fewer than {min_judged}) and below target at the fallback: excluded{reached}"
    return f"  no threshold reaches the target: excluded{reached}" if choice.status == "unreachable" else ""


def _text(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.3f} ({interval.low:.3f}-{interval.high:.3f})"
