"""What lies in an export's folder beside its data: what was asked for, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from labeler import __version__, storage
from labeler.errors import Refused
from labeler.exports.formats import Format
from labeler.exports.selection import Selection
from labeler.exports.totals import Totals
from labeler.runs import Progress, Run, UnitKey, layout
from labeler.runs.manifest import canonical_json, digest_of, readable_json

EXPORT_VERSION = 2  # raise when the same request would write other files
_MANIFEST = "export.json"
_PARTS = "parts"


def describe(
    run: Run, units: Sequence[UnitKey], progress: Progress, selection: Selection, format_: Format
) -> dict[str, Any]:
    """Everything that decides what an export writes, as plain data: also what may change in the run meanwhile."""
    pending = sorted((shard_id, sorted(numbers)) for shard_id, numbers in progress.pending.items())
    forgotten = [storage.basename(info.uri) for info in storage.list_objects(run.root.path(layout.EXCLUDED_FOLDER))]
    asked = asdict(selection)
    asked["categories"] = None if selection.categories is None else sorted(selection.categories)
    asked["thresholds"]["by_category"] = {str(id_): t for id_, t in sorted(selection.thresholds.by_category.items())}
    return {
        "export_version": EXPORT_VERSION,
        "run": run.manifest.run_id,
        "fingerprint": run.manifest.fingerprint,
        "units": len(units),
        "units_digest": digest_of(canonical_json([list(unit) for unit in units])),
        "units_pending": digest_of(canonical_json(pending)),
        "images_forgotten": digest_of(canonical_json(forgotten)),
        "units_bytes": digest_of(canonical_json(_sizes(units, progress))),
        "format": format_.name,
        "settings": asdict(format_),  # type: ignore[call-overload]
        "selection": asked,
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


def begin(target: str, asked: dict[str, Any]) -> tuple[Totals, int]:
    """Take or continue the folder; returns (totals so far, number of the next part).

    Raises:
        Refused: the folder holds another export, or something else.
    """
    found = storage.head(storage.join(target, _MANIFEST))
    if found is None:
        first = next(iter(storage.list_objects(target)), None)
        if first is not None:
            relative = first.uri.removeprefix(target).lstrip("/")
            raise Refused(
                f"output {storage.redact(target)} is not empty (it holds {relative}); choose another --output"
            )
        storage.put(storage.join(target, _MANIFEST), _manifest(asked, complete=False))
        return Totals(), 0
    try:
        before = json.loads(storage.read_bytes(found.uri))["asked"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{storage.redact(found.uri)} is no export of labeler; choose another --output") from None
    if before != json.loads(canonical_json(asked)):
        names = [name for name in asked if before.get(name) != json.loads(canonical_json(asked[name]))]
        raise Refused(
            f"output {storage.redact(target)} holds an export of something else (another {', '.join(names)}); "
            "choose another --output, or delete it first"
        )
    parts = sorted(info.uri for info in storage.list_objects(storage.join(target, _PARTS)))
    return (Totals.from_json(storage.read_bytes(parts[-1])), len(parts)) if parts else (Totals(), 0)


def note_part(target: str, number: int, totals: Totals) -> None:
    """The part and all before it are wholly written."""
    storage.put(storage.join(target, _PARTS, f"{number:05d}.json"), totals.to_json())


def finish(target: str, asked: dict[str, Any], totals: Totals, parts: int) -> None:
    """Everything is written."""
    storage.put(storage.join(target, _MANIFEST), _manifest(asked, complete=True, parts=parts, totals=totals.to_dict()))


def _manifest(asked: dict[str, Any], *, complete: bool, **more: Any) -> bytes:
    return readable_json({"complete": complete, "labeler": __version__, "asked": asked, **more})
