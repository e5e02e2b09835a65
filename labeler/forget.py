"""Forget images: their rows keep nothing but their place, in a run and in all that derives from it, now and later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.errors import Refused
from labeler.records import Row, complete_table, table_to_parquet
from labeler.report import build_report
from labeler.runs import Run, UnitKey, iterate_units, layout, open_run, read_plan, read_progress, read_unit_file
from labeler.runs.excluded import Excluded, name_digest, write_excluded
from labeler.runs.made import read_made
from labeler.runs.manifest import readable_json
from labeler.runs.plan import file_name_prefix

_WRITES = 16
_COLUMNS = ("image_key", "index", "digest", "status")


@dataclass
class Forgotten:
    """What came of it.

    Attributes:
        images: that the names name, over the whole run.
        unknown: names that no image of the run has; images that come later under them are not labeled.
        units: unit files that were written anew, those of derived runs included.
        runs: folders that were looked through.
        untouched: files made from these runs that were not changed.
    """

    images: int = 0
    unknown: list[str] = field(default_factory=list)
    units: int = 0
    runs: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)


@dataclass
class _Found:
    """Images that are named: their places, what else names them, and which names were used."""

    places: dict[UnitKey, set[int]] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)
    used: dict[str, int] = field(default_factory=dict)  # name -> images, by image key alone


def forget(run: Run, names: Sequence[str]) -> Forgotten:
    """Take images out of a run, of what it derives from, and of what derives from it; may be repeated.

    Args:
        names: image keys, file names as exports write them ("00000.tar/cat.jpg"), or digests as in the rows.

    Raises:
        Refused: an image key alone names several images; nothing was changed.
    """
    root = run.root
    found = _find(root, names)
    outcome = Forgotten(sum(map(len, found.places.values())), [name for name in names if name not in found.used])
    write_excluded(root, Excluded(frozenset(found.excluded) | {name_digest(name) for name in outcome.unknown}))
    for one in _with_derived(root):
        outcome.runs.append(one.uri)
        outcome.units += _rewrite(one, found.places)
        plan, progress = read_plan(one), read_progress(one)
        storage.put(one.path(layout.REPORT), readable_json(build_report(one, plan, progress).to_dict()))
        outcome.untouched += _made_from(one)
    return outcome


def _find(root: Run, names: Sequence[str]) -> _Found:
    plan, progress = read_plan(root), read_progress(root)
    prefixes = {planned.shard_id: file_name_prefix(planned) for planned in plan}
    wanted, found = pa.array(names, pa.string()), _Found()
    for unit, table in iterate_units(plan, progress, _COLUMNS):
        prefix = prefixes[unit[0]]
        file_names = pc.binary_join_element_wise(prefix, table["image_key"].cast(pa.string()), "")
        ways = (file_names, table["digest"], table["image_key"])
        hits = [pc.is_in(way, value_set=wanted) for way in ways]
        named = table.filter(pc.or_(pc.or_(*hits[:2]), hits[2])).to_pylist()
        if named:
            _note(found, unit, prefix, named, frozenset(names))
    doubled = [f"{name}: {count:,} images" for name, count in found.used.items() if count > 1]
    if doubled:
        raise Refused(
            "an image key names several images; give the file name with its shard, or the image's digest", doubled
        )
    return found


def _note(found: _Found, unit: UnitKey, prefix: str, rows: Sequence[dict[str, object]], names: frozenset[str]) -> None:
    for row in rows:
        key, digest = str(row["image_key"]), row["digest"]
        file_name = prefix + key
        found.places.setdefault(unit, set()).add(int(str(row["index"])))
        found.excluded.add(name_digest(file_name))
        if digest:
            found.excluded.add(name_digest(str(digest)))
        for name in {file_name, str(digest)} & names:
            found.used.setdefault(name, 0)
        if key in names and key != file_name and file_name not in names and digest not in names:
            found.used[key] = found.used.get(key, 0) + 1


def _with_derived(run: Run) -> Iterator[Run]:
    yield run
    for info in storage.list_objects(run.path(layout.DERIVED_FOLDER)):
        derived = open_run(storage.read_bytes(info.uri).decode())
        if derived is not None:  # else it was deleted, and its rows with it
            yield from _with_derived(derived)


def _rewrite(run: Run, places: dict[UnitKey, set[int]]) -> int:
    """Write those unit files anew that lie in this run's own folder; how many had something to forget."""
    own = read_progress(run).folders[0][1]
    mine = [(unit, indices) for unit, indices in places.items() if unit[1] in own.get(unit[0], ())]
    with ThreadPoolExecutor(_WRITES) as pool:
        return sum(pool.map(lambda job: _rewrite_unit(run, *job), mine))


def _rewrite_unit(run: Run, unit: UnitKey, indices: set[int]) -> bool:
    uri = run.path(layout.unit_file(*unit))
    table = read_unit_file(uri)
    named = pc.is_in(table["index"], value_set=pa.array(sorted(indices), pa.int64()))
    left = pc.and_(named, pc.not_equal(table["status"], "removed"))
    if not pc.any(left).as_py():
        return False
    places = table.filter(named).select(["image_key", "shard_id", "index", "uri"]).to_pylist()
    rows = [Row(**place, status="removed") for place in places]
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    storage.put(uri, table_to_parquet(complete_table(rows, run.keep, table.filter(pc.invert(named))), metadata))
    return True


def _made_from(run: Run) -> list[str]:
    """Exports and pages: they may still show what was forgotten."""
    exports = run.path("exports")
    made = {info.uri[: len(exports) + 1] + info.uri[len(exports) + 1 :].split("/")[0]
            for info in storage.list_objects(exports)}  # fmt: skip
    pages = {info.uri for info in storage.list_objects(run.uri, recursive=False) if info.uri.endswith(".html")}
    return [*sorted(made | pages), *read_made(run)]
