"""What is in an export's folder beside its data: what was asked for, and how far it is.

It is in a hidden folder: readers such as `datasets` take every other JSON file there for data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from labeler import __version__, plain_json, storage
from labeler.digests import as_stored, canonical_json, digest_of, readable_json
from labeler.errors import Refused
from labeler.exports.formats import Format
from labeler.exports.selection import Selection
from labeler.exports.totals import ExportTotals
from labeler.labels.thresholds import as_written
from labeler.runs import Progress, Snapshot, UnitKey, layout

EXPORT_VERSION = 4  # raise when the same request would write other files
FOLDER = ".labeler"
_MANIFEST = f"{FOLDER}/export.json"
_MANIFEST_BEFORE = "export.json"  # of versions 1 and 2
_PARTS = f"{FOLDER}/parts"


def describe(snapshot: Snapshot, selection: Selection, format_: Format) -> dict[str, Any]:
    """Everything that decides what an export writes, as plain data: also what may change in the run meanwhile."""
    run = snapshot.run
    asked = asdict(replace(selection, sample=None))
    if selection.uncertain is None:
        del asked["uncertain"]  # exports that an earlier version began have none, and continue
    asked["score"] = {"name": selection.score.name, "fusion": asked["score"]["fusion"]}
    if selection.score.is_detectors:
        del asked["score"]  # the same
    del asked["sample"]
    if selection.sample is not None:
        asked["sample"] = selection.sample.digest
    asked["categories"] = None if selection.categories is None else sorted(selection.categories)
    thresholds = selection.thresholds
    asked["thresholds"]["default"] = as_written(thresholds.default)
    asked["thresholds"]["by_category"] = {str(id_): as_written(t) for id_, t in sorted(thresholds.by_category.items())}
    return {
        "export_version": EXPORT_VERSION,
        "run": run.manifest.run_id,
        "fingerprint": run.manifest.fingerprint,
        **commits(snapshot),
        "format": format_.name,
        "settings": format_.settings,
        "selection": asked,
    }


def commits(snapshot: Snapshot) -> dict[str, Any]:
    """Return what is committed of a run, and which images are hidden, in digests: equal if it has the same rows."""
    units, progress = snapshot.unit_keys(), snapshot.progress
    pending = sorted((shard_id, sorted(numbers)) for shard_id, numbers in progress.pending.items())
    excluded = snapshot.run.root.path(layout.EXCLUDED_FOLDER)
    forgotten = [storage.basename(info.uri) for info in storage.list_objects(excluded)]
    return {
        "units": len(units),
        "units_digest": digest_of(canonical_json([list(unit) for unit in units])),
        "units_pending": digest_of(canonical_json(pending)),
        "images_forgotten": digest_of(canonical_json(forgotten)),
        "units_bytes": digest_of(canonical_json(_sizes(units, progress))),
    }


def _sizes(units: Sequence[UnitKey], progress: Progress) -> list[int | None]:
    """Bytes of each unit file: what `labeler forget` noted before it was cut off, it rewrites only when it is repeated.

    Sizes, not ETags: a unit that is committed twice, or a run that was copied, is still the same.
    """
    sizes: dict[str, int] = {}
    for folder, _ in progress.folders:
        listed = storage.list_objects(storage.join(folder, layout.LABELS_FOLDER))
        sizes.update((info.uri, info.size) for info in listed)
    return [sizes.get(progress.unit_uri(*unit)) for unit in units]


def begin(target: str, asked: dict[str, Any]) -> tuple[ExportTotals, int]:
    """Take or continue the folder; returns (totals so far, number of the next part).

    Of two exports that begin at once, one writes the manifest and the other finds it: it is refused, or, if it asks for
    the same thing, writes the same files.

    Raises:
        Refused: the folder holds another export, or something else.
    """
    manifest = storage.join(target, _MANIFEST)
    if storage.head(manifest) is None:
        _require_empty(target)
        if _is_first(manifest, _manifest(asked, complete=False)):
            return ExportTotals(), 0
    _require_same(target, manifest, asked)
    parts = sorted(info.uri for info in storage.list_objects(storage.join(target, _PARTS)))
    return (ExportTotals.from_json(storage.read_bytes(parts[-1])), len(parts)) if parts else (ExportTotals(), 0)


def _require_empty(target: str) -> None:
    """Refused if something is in the folder, unless another export was started there meanwhile."""
    first = next(iter(storage.list_objects(target)), None)
    if first is None or storage.head(storage.join(target, _MANIFEST)) is not None:
        return
    if storage.head(storage.join(target, _MANIFEST_BEFORE)) is not None:
        raise Refused(
            f"output {storage.redact(target)} holds an export of an earlier labeler (its {_MANIFEST_BEFORE} is in the "
            "folder itself), which this version cannot continue; choose another --output, or delete it first"
        )
    relative = first.uri.removeprefix(target).lstrip("/")
    raise Refused(f"output {storage.redact(target)} is not empty (it holds {relative}); choose another --output")


def _is_first(uri: str, data: bytes) -> bool:
    """Write an object unless it is there; True if nobody else can have done so, too."""
    with contextlib.suppress(storage.Unconditional):
        return storage.put_if_absent(uri, data)
    storage.put_if_absent(uri, data, single_writer=True)  # two writers at once can both succeed: read which one stays
    return False


def _require_same(target: str, manifest: str, asked: dict[str, Any]) -> None:
    """Refused if the folder's manifest is of another export, or is none."""
    try:
        before = plain_json.parse(storage.read_bytes(manifest))["asked"]
        names = [name for name in asked if before.get(name) != as_stored(asked[name])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(
            f"{storage.redact(manifest)} is not an export manifest of labeler; choose another --output"
        ) from None
    if names or before.keys() != asked.keys():
        raise Refused(
            f"output {storage.redact(target)} holds an export of something else (another {', '.join(names)}); "
            "choose another --output, or delete it first"
        )


def note_part(target: str, number: int, totals: ExportTotals) -> None:
    """The part and all before it are wholly written."""
    storage.put(storage.join(target, _PARTS, f"{number:05d}.json"), totals.to_json())


def finish(target: str, asked: dict[str, Any], totals: ExportTotals, parts: int) -> None:
    """Everything is written."""
    storage.put(storage.join(target, _MANIFEST), _manifest(asked, complete=True, parts=parts, totals=totals.to_dict()))


def _manifest(asked: dict[str, Any], *, complete: bool, **more: Any) -> bytes:
    return readable_json({"complete": complete, "labeler": __version__, "asked": asked, **more})
