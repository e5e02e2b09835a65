"""The data card (README.md) that tells `datasets` which files are which split, and people where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from labeler import __version__, storage
from labeler.exports.formats import Frame
from labeler.exports.selection import Selection
from labeler.exports.splits import ALL
from labeler.exports.totals import ExportTotals
from labeler.labels.thresholds import NEVER, as_written

NAME = "README.md"
_TEXT = """\
# Pseudo-labels

A model found these boxes; nobody checked them. Made with labeler.

```python
from datasets import load_dataset

{loading}
```
{notes}
## License

`license: unknown` above is a placeholder: replace it with the license of the images before you share them.

## Provenance

| | |
|---|---|
{provenance}
"""


def data_card(
    frame: Frame,
    totals: ExportTotals,
    configs: Mapping[str, Mapping[str, str]],
    *,
    features: Sequence[Mapping[str, Any]] | None = None,
    notes: str = "",
) -> bytes:
    """Return the card of an export.

    Args:
        configs: name -> split -> pattern of its files; the first one opens without a name. Splits without rows must be
            excluded, because `datasets` refuses them.
        features: the columns, in the card's own notation; None where the files say it themselves.
        notes: Markdown about the columns.
    """
    head: dict[str, Any] = {"license": "unknown", "task_categories": ["object-detection"], "tags": ["pseudo-labels"]}
    filled = {name: files for name, files in configs.items() if files}
    head["configs"] = [
        {"config_name": name, "data_files": [{"split": _shown(split, files), "path": files[split]} for split in files]}
        | ({"default": True} if place == 0 and len(filled) > 1 else {})
        for place, (name, files) in enumerate(filled.items())
    ]
    if features is not None:
        head["dataset_info"] = {"features": list(features)}
    loading = "\n".join(
        f'{name} = load_dataset("PATH"{f", {name!r}" if len(filled) > 1 else ""})'
        for name in ([*filled] if len(filled) > 1 else ["dataset"])
    ).replace("'", '"')
    provenance = "\n".join(f"| {name} | {text} |" for name, text in _provenance(frame, totals).items())
    text = _TEXT.format(loading=loading, notes=f"\n{notes}\n" if notes else "", provenance=provenance)
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{text}".encode()


def patterns(frame: Frame, counts: Mapping[str, int], pattern: str) -> dict[str, str]:
    """Return split -> pattern of its files, for the splits that `counts` has rows of; `{}` stands for the split."""
    return {split: pattern.format("labels" if split == ALL else split) for split in frame.splits if counts.get(split)}


def _shown(split: str, others: Mapping[str, str]) -> str:
    """Return the name that `datasets` knows a split by: an export without splits is its "train"."""
    if split == "val" and "validation" not in others:
        return "validation"
    return "train" if split == ALL else split


def _provenance(frame: Frame, totals: ExportTotals) -> dict[str, str]:
    manifest, asked = frame.run.manifest, frame.selection
    digests = manifest.fingerprint_fields
    splits = ", ".join(f"{name} {count:,}" for name, count in totals.images.items() if name != ALL)
    suppressed = "off" if asked.suppress_iou is None else f"IoU {asked.suppress_iou:g}"
    return {
        "labeler version": f"`{__version__}`",
        "run id": f"`{manifest.run_id}`, created {manifest.created}",
        "model": f"`{storage.redact(str(manifest.config['model']['name']))}`, digest `{digests.get('model')}`",
        "prompts digest": f"`{digests.get('prompts')}`",
        "vocabulary digest": f"`{digests.get('vocabulary')}`, {len(frame.categories):,} categories",
        "score thresholds": _thresholds(asked),
        "class-agnostic NMS": suppressed,
        "images": f"{sum(totals.images.values()):,}" + (f" ({splits})" if splits else ""),
        "boxes": f"{totals.annotations:,}",
    }


def _thresholds(asked: Selection) -> str:
    thresholds = asked.thresholds
    parts = [f"{as_written(thresholds.default)} by default"]
    if not asked.score.is_detectors:
        parts.insert(0, f"of `{asked.score.name}`")
    if thresholds.by_category:
        never = sum(threshold == NEVER for threshold in thresholds.by_category.values())
        parts.append(f"own ones for {len(thresholds.by_category):,} categories ({never:,} of them excluded)")
    if "run" in thresholds.fitted_on:
        parts.append(f"fitted on run `{thresholds.fitted_on['run']}`")
    if asked.score_below is not None:
        parts.append(f"only scores below {asked.score_below:g}")
    return ", ".join(parts)
