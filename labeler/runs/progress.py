"""What is committed and what is left: the listing of a run's folder is the only record of progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from labeler import storage
from labeler.errors import InputChanged
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.runs.overlay.chosen_units import read_selection
from labeler.runs.plan import PlannedShard

NOTHING: frozenset[int] = frozenset()
_LISTINGS = 64  # at least, of a run with at least as many shards

Units = Mapping[str, frozenset[int]]  # shard id -> numbers of units
Sizes = Mapping[str, Mapping[int, int]]


@dataclass(frozen=True)
class Progress:
    """The committed units of a run, as listed on storage. A derived run's commits overlay its parent's.

    Attributes:
        units: what is committed.
        ends: shard id -> (units, images) of its end marker.
        folders: run folders and what lies there; of a unit that several have, the first one's counts.
        pending: units that a derived run has yet to make again; always empty otherwise. Of a run that writes every unit
            itself they are not among `units`.
        sizes: of each of `folders`: shard id -> unit -> bytes of its file.
        marker_uris: of the end markers that are not empty: they count what their shards hold beside images.
    """

    units: Units
    ends: Mapping[str, tuple[int, int]]
    folders: tuple[tuple[str, Units], ...]
    pending: Units = field(default_factory=dict)
    marker_uris: tuple[str, ...] = ()
    sizes: tuple[Sizes, ...] = ()

    def is_finished(self, shard_id: str) -> bool:
        """The shard has its end marker, as many unit files as it says, and nothing pending."""
        end = self.ends.get(shard_id)
        return end is not None and len(self.units.get(shard_id, NOTHING)) == end[0] and shard_id not in self.pending

    def left(self, plan: Iterable[PlannedShard]) -> list[PlannedShard]:
        """The shards that still need work, in plan order."""
        return [p for p in plan if not self.is_finished(p.shard_id)]

    @property
    def committed_units(self) -> int:
        return sum(len(units) for units in self.units.values())

    @property
    def commits(self) -> int:
        """Everything that was ever put into the run's own folder: it grows while the run moves."""
        return sum(len(units) for units in self.folders[0][1].values()) + len(self.ends)

    def has(self, shard_id: str, unit: int) -> bool:
        """Return whether the unit is committed and not pending."""
        return unit in self.units.get(shard_id, NOTHING) and unit not in self.pending.get(shard_id, NOTHING)

    def unit_uri(self, shard_id: str, unit: int) -> str:
        """Return where a committed unit lies."""
        for folder, units in self.folders:
            if unit in units.get(shard_id, NOTHING):
                return storage.join(folder, layout.unit_file(shard_id, unit))
        raise KeyError((shard_id, unit))

    def images_per_shard(self, plan: Iterable[PlannedShard]) -> dict[str, int | None]:
        """Images of each shard: from its end marker, or as planned; None where only reading it to its end will tell."""
        return {p.shard_id: self.ends[p.shard_id][1] if p.shard_id in self.ends else p.images for p in plan}

    def images_known(self, plan: Iterable[PlannedShard]) -> tuple[int, bool]:
        """(images of the plan as far as known, whether that is all of them)."""
        counts = self.images_per_shard(plan).values()
        return sum(images or 0 for images in counts), None not in counts


def read_progress(run: Run, shards: int = 0) -> Progress:
    """List the commits of a run, and of what it derives from.

    Args:
        shards: of the plan, about: many are listed in several listings at once.

    Raises:
        InputChanged: a shard has two end markers that disagree: its bytes changed between two readings.
        StorageError: if a unit file is beyond its shard's end: it was put there by somebody else.
    """
    beginnings = _beginnings(shards)
    sizes, (ends, marker_uris) = _list_units(run, beginnings), _list_ends(run, beginnings)
    units = {shard_id: frozenset(found) for shard_id, found in sizes.items()}
    if run.parent is None:
        _require_within_ends(run, units, ends)
        return Progress(units, ends, ((run.uri, units),), marker_uris=marker_uris, sizes=(sizes,))
    below = read_progress(run.parent, shards)
    _require_within_ends(run, units, below.ends)
    folders, all_sizes = ((run.uri, units), *below.folders), (sizes, *below.sizes)
    if run.manifest.whole:
        missing = {shard_id: found - units.get(shard_id, NOTHING) for shard_id, found in below.units.items()}
        pending = {shard_id: found for shard_id, found in missing.items() if found}
        return Progress(units, below.ends, folders, pending, below.marker_uris, all_sizes)
    pending = {
        shard_id: left
        for shard_id, chosen in read_selection(run).items()
        if (left := frozenset(chosen) - units.get(shard_id, NOTHING))
    }
    return Progress(below.units, below.ends, folders, pending, below.marker_uris, all_sizes)


def _require_within_ends(run: Run, units: Units, ends: Mapping[str, tuple[int, int]]) -> None:
    """Such a file would keep the shard from ever being finished, or add rows to it."""
    for shard_id, (count, _) in ends.items():
        if (last := max(units.get(shard_id, NOTHING), default=-1)) >= count:
            stray = run.path(layout.unit_file(shard_id, last))
            raise storage.StorageError(
                f"{storage.redact(stray)} is beyond the end of its shard, which has {count:,} units; remove the file"
            )


def _list_units(run: Run, beginnings: Sequence[str]) -> dict[str, dict[int, int]]:
    sizes: dict[str, dict[int, int]] = {}
    root = run.path(layout.LABELS_FOLDER)
    for info in storage.list_split(root, beginnings):
        match = layout.UNIT_FILE.fullmatch(info.uri.removeprefix(root).lstrip("/"))
        if match:
            sizes.setdefault(match[1], {})[int(match[2])] = info.size
    return sizes


def _list_ends(run: Run, beginnings: Sequence[str]) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    """(units and images by shard, URIs of the markers with a body)."""
    ends: dict[str, tuple[int, int]] = {}
    with_body: list[str] = []
    for info in storage.list_split(run.path(layout.SHARDS_FOLDER), beginnings):
        match = layout.END_MARKER.fullmatch(storage.basename(info.uri))
        if match:
            with_body += [info.uri] if info.size else []
            end = (int(match[2]), int(match[3]))
            if ends.setdefault(match[1], end) != end:
                raise InputChanged(
                    f"shard {match[1]} of run {storage.redact(run.uri)} ended twice with different counts, "
                    f"{ends[match[1]]} and {end} (units, images): its bytes changed while it was read; "
                    "restore the input, or label it again into another output"
                )
    return ends, tuple(with_body)


def _beginnings(shards: int) -> list[str]:
    """Return what ids of shards begin with: about evenly many ids each up to the last of `shards`, and all that may
    follow.
    """
    if shards < _LISTINGS:
        return [""]
    last = f"{shards - 1:06d}"
    digits = next(n for n in range(1, len(last) + 1) if int(last[:n]) + 1 >= _LISTINGS)
    ours = [f"{number:0{digits}d}" for number in range(int(last[:digits]) + 1)]
    return ours + [f"{last[:n]}{digit}" for n in range(digits) for digit in range(int(last[n]) + 1, 10)]
