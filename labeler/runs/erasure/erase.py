"""Forget images: their rows keep nothing but their place, in a run and in all that derives from it, now and later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.digests import readable_json
from labeler.errors import Refused, StorageError
from labeler.file_names import comparable
from labeler.labels.records import complete_table, places_of, table_to_parquet
from labeler.runs import (
    Progress,
    Run,
    UnitKey,
    iterate_units,
    layout,
    open_run,
    read_progress,
    read_snapshot,
    read_unit_file,
)
from labeler.runs.erasure.excluded import Excluded, name_digest, read_excluded, write_excluded
from labeler.runs.erasure.made import read_made
from labeler.runs.erasure.named_images import NamedImage, name_images
from labeler.runs.report import build_report
from labeler.runs.snapshot import Snapshot

_WRITES = 16
_ROUNDS = 20  # each but the first answers another `labeler forget` of the very same moment
_COLUMNS = ("image_key", "index", "digest", "status")


@dataclass
class Forgotten:
    """Result of one `forget` call.

    Attributes:
        images: that the names name, over the whole run.
        unknown: names that no image of the run has; images that come later under them are not labeled.
        units: unit files that were rewritten, those of derived runs included.
        runs: folders that were looked through.
        untouched: files made from these runs that were not changed.
        unreached: folder of a derived run -> why it was not looked through.
    """

    images: int = 0
    unknown: list[str] = field(default_factory=list)
    units: int = 0
    runs: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    unreached: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Family:
    """A run, what it derives from, and what derives from any of them.

    Attributes:
        members: a run comes before what derives from it, so the first has the plan.
        own: commits of each member, of those that are in its own folder.
        unreached: as `Forgotten`.
        snapshot: of the run.
    """

    members: Sequence[Run]
    own: Sequence[Progress]
    unreached: dict[str, str]
    snapshot: Snapshot


_Images = Mapping[tuple[UnitKey, int], NamedImage]  # by unit and index


def forget(run: Run, names: Sequence[str], *, future: bool = False) -> Forgotten:
    """Take images out of a run, of what it derives from, and of what derives from it; may be repeated.

    Args:
        names: image keys, file names as exports write them ("00000.tar/cat.jpg"), or digests as in the rows. A name
            that no image has in this very spelling is that of the image that has it in another.
        future: also if no name names an image of the run, or was excluded before; for images that come later.

    Raises:
        Refused: an image key alone, or another spelling, names several images; or no name names any. Nothing was
            changed.
        StorageError: a run cannot be read or written.
    """
    family = _family_of(run)
    named = name_images(_find(family, names), names)
    images, unknown = named.images, named.unknown
    if not images and not future:
        _refuse_unless_listed(run, unknown)
    exactly = {name for image in images.values() for name in (image.file_name, *image.digests)}
    write_excluded(
        run.root, Excluded.of([*named.in_any_spelling, *unknown]) | Excluded.of_digests(map(name_digest, exactly))
    )
    return _remove(family, images, unknown)


def forget_listed(run: Run) -> Forgotten:
    """Take those images out of a run and its family that its list has and whose rows still have more than their place.

    They were labeled while `forget` ran, or by a job whose `input.exclude` names them.

    Raises:
        StorageError: a run cannot be read or written.
    """
    family = _family_of(run)
    excluded, prefixes = read_excluded(run.root), family.snapshot.prefixes
    images: dict[tuple[UnitKey, int], NamedImage] = {}
    for own in family.own:
        for unit, table in iterate_units(family.snapshot.plan, own, _COLUMNS):
            prefix = prefixes[unit[0]]
            for row in table.filter(pa.array(excluded.of_rows(table, prefix))).to_pylist():
                images.setdefault((unit, row["index"]), NamedImage(row["image_key"], prefix + row["image_key"]))
    return _remove(family, images, [])


def count_named(run: Run, names: Sequence[str]) -> tuple[int, list[str]]:
    """Return (how many images `forget` would take out, names that no image has), and change nothing.

    Raises:
        Refused: as `forget`.
    """
    named = name_images(_find(_family_of(run), names), names)
    return len(named.images), named.unknown


def _remove(family: _Family, images: _Images, unknown: list[str]) -> Forgotten:
    outcome = Forgotten(len(images), unknown, unreached=family.unreached)
    # What derives comes first: a row that was rewritten has no digest any more, and a repeat after a kill looks for it.
    for one, own in reversed(list(zip(family.members, family.own, strict=True))):
        outcome.units += _rewrite(one, own, images, family)
    plan = family.snapshot.plan
    for one in family.members:  # only now: the reports of derived runs count rows of the others, too
        outcome.runs.append(one.uri)
        report = build_report(Snapshot(one, plan, read_progress(one, len(plan))))
        storage.put(one.path(layout.REPORT), readable_json(report.to_dict()))
    outcome.untouched = _all_made(family.members)
    return outcome


def _refuse_unless_listed(run: Run, unknown: Sequence[str]) -> None:
    """A digest names no row any more once its image is forgotten: then its list tells it from a mistake."""
    listed = read_excluded(run.root)
    if not any(map(listed.has, unknown)):
        shown = ", ".join(map(ascii, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise Refused(
            f"none of the {len(unknown):,} names is in run {run.manifest.run_id} ({shown}); nothing was changed; give "
            "keys, file names as in exports, or digests, or --future to keep such images out of what is labeled later"
        )


def _family_of(run: Run) -> _Family:
    """The family of a run; one that was moved belongs to it still when it is the run that was asked for."""
    unreached: dict[str, tuple[str, str]] = {}  # folder -> (run id as noted, why)
    members: dict[str, Run] = {}
    line = [run]
    while (above := line[0].parent) is not None:
        line.insert(0, above)
    for start in line:
        for one in _with_derived(start, unreached):
            members.setdefault(one.uri.rstrip("/"), one)
    ids = {one.manifest.run_id for one in members.values()}
    left = {uri: why for uri, (run_id, why) in unreached.items() if run_id not in ids and uri not in members}
    everyone = list(members.values())
    snapshot = read_snapshot(run)
    progress = [read_progress(one, len(snapshot.plan)) for one in everyone]
    own = [replace(each, units=each.folders[0][1]) for each in progress]
    return _Family(everyone, own, left, snapshot)


def _with_derived(run: Run, unreached: dict[str, tuple[str, str]]) -> Iterator[Run]:
    yield run
    for info in storage.list_objects(run.path(layout.DERIVED_FOLDER)):
        uri = storage.restore_user(storage.read_bytes(info.uri).decode(), run.uri)
        try:
            derived = open_run(uri)
            why = "there is no run in that folder any more"
        except Refused as error:
            derived, why = None, str(error)
        if derived and (derived.parent is None or derived.parent.manifest.run_id != run.manifest.run_id):
            derived, why = None, "that folder holds another run now"
        if derived is None:
            unreached[uri.rstrip("/")] = (storage.basename(info.uri), why)
        else:
            yield from _with_derived(derived, unreached)


def _find(family: _Family, names: Sequence[str]) -> _Images:
    """Images that may be meant, by the rows of any run: one that was read only at a retry has its digest there."""
    prefixes, wanted = family.snapshot.prefixes, pa.array(names, pa.string())
    alike = pa.array(map(comparable, names), pa.string())
    images: dict[tuple[UnitKey, int], NamedImage] = {}
    for own in family.own:
        for unit, table in iterate_units(family.snapshot.plan, own, _COLUMNS):
            prefix = prefixes[unit[0]]
            keys = table["image_key"].cast(pa.string())
            file_names = pc.binary_join_element_wise(prefix, keys, "")
            hits = pc.is_in(table["digest"], value_set=wanted)
            for way in (file_names, keys):
                for each, value_set in ((way, wanted), (_comparable(way), alike)):
                    hits = pc.or_(hits, pc.is_in(each, value_set=value_set))
            for row in table.filter(hits).to_pylist():
                key = row["image_key"]
                image = images.setdefault((unit, row["index"]), NamedImage(key, prefix + key))
                image.digests |= {row["digest"]} - {None}
    return images


def _comparable(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """`file_names.comparable` of a whole column."""
    return pc.utf8_normalize(pc.replace_substring(names, "\\", "/"), form="NFC")


def _rewrite(run: Run, own: Progress, images: _Images, family: _Family) -> int:
    """Write those unit files again that are in this run's own folder; how many had something to forget.

    What was written is read again, until nothing is left in it of all that was ever forgotten: of two `labeler forget`
    at once the one that writes last may have read before the other wrote. It finds the other's images in the lists,
    which are written before any unit is.

    Raises:
        StorageError: images keep coming back.
    """
    places: dict[UnitKey, set[int]] = {}
    for unit, index in images:
        if unit[1] in own.units.get(unit[0], ()):
            places.setdefault(unit, set()).add(index)
    written: set[UnitKey] = set()
    left, prefixes = list(places), family.snapshot.prefixes
    for _ in range(_ROUNDS):
        listed = read_excluded(family.members[0])
        jobs = [(run, unit, places[unit], prefixes[unit[0]], listed) for unit in left]
        with ThreadPoolExecutor(_WRITES) as pool:
            changed = list(pool.map(lambda job: _rewrite_unit(*job), jobs))
        left = [unit for unit, was in zip(left, changed, strict=True) if was]
        written.update(left)
        if not left:
            return len(written)
    uri = storage.redact(run.path(layout.unit_file(*left[0])))
    raise StorageError(f"{uri}: images that were forgotten keep coming back; see what else writes there, and repeat")


def _rewrite_unit(run: Run, unit: UnitKey, indices: set[int], prefix: str, listed: Excluded) -> bool:
    """Return whether the unit had rows left that are named by index, or whose file names are in the lists."""
    uri = run.path(layout.unit_file(*unit))
    table = read_unit_file(uri)
    by_name = listed.have([prefix + key for key in table["image_key"].to_pylist()])
    named = pc.or_(
        pc.is_in(table["index"], value_set=pa.array(sorted(indices), pa.int64())), pa.array(by_name, pa.bool_())
    )
    left = pc.and_(named, pc.not_equal(table["status"], "removed"))
    if not pc.any(left).as_py():
        return False
    rows = places_of(table.filter(left))
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    storage.put(uri, table_to_parquet(complete_table(rows, run.keep, table.filter(pc.invert(left))), metadata))
    return True


def _all_made(members: Sequence[Run]) -> list[str]:
    """Return what was made from these runs outside of them, and from the runs among that: a fusion
    may be fused again.
    """
    seen, waiting = {one.uri.rstrip("/") for one in members}, list(members)
    found: list[str] = []
    while waiting:
        for uri in _made_from(waiting.pop(0)):
            if uri.rstrip("/") in seen:
                continue
            seen.add(uri.rstrip("/"))
            found.append(uri)
            for one in _runs_at(uri):
                if one.uri.rstrip("/") not in seen:
                    seen.add(one.uri.rstrip("/"))
                    found.append(one.uri)
                waiting.append(one)
    return found


def _runs_at(uri: str) -> list[Run]:
    """The run at this address and all that derive from it; none if it is something else, or cannot be opened."""
    try:
        run = open_run(uri)
        return [] if run is None else list(_with_derived(run, {}))
    except (Refused, StorageError):
        return []


def _made_from(run: Run) -> list[str]:
    """Exports, pages and samples: they may still show or name what was forgotten."""
    exports = run.path(layout.EXPORTS_FOLDER)
    made = {info.uri[: len(exports) + 1] + info.uri[len(exports) + 1 :].split("/")[0]
            for info in storage.list_objects(exports)}  # fmt: skip
    pages = {info.uri for info in storage.list_objects(run.uri, recursive=False) 
             if info.uri.endswith((".html", layout.SAMPLE))}  # fmt: skip
    return [*sorted(made | pages), *read_made(run)]
