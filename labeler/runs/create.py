"""Bring a run folder into being, or take the one that is there; append generations to its plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from labeler import storage
from labeler.ahead import Fetch, in_order
from labeler.digests import digest_of, readable_json
from labeler.errors import Refused
from labeler.prompts import PromptPlan
from labeler.runs import layout
from labeler.runs.manifest import Manifest, Run, open_run
from labeler.runs.overlay.chosen_units import Selection, selection_bytes
from labeler.runs.plan import PlannedShard, generations, group_files, plan_bytes
from labeler.vocabulary import Vocabulary

_OURS = (
    layout.PLAN_FOLDER,
    layout.GROUPS_FOLDER,
    layout.TEMPORARY_FOLDER,
    layout.SELECTION,
    layout.VOCABULARY,
    layout.PROMPTS,
)


@dataclass(frozen=True)
class NewRun:
    """Everything a run is created from: its plan, or for a derived run its parent and what of that is redone.

    Attributes:
        whole: as of `Manifest`; then there is no selection.
    """

    fields: Mapping[str, Any]  # of the fingerprint
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    vocabulary: Vocabulary
    prompts: PromptPlan
    plan: Sequence[PlannedShard] = ()
    skipped_files: Mapping[str, int] = field(default_factory=dict)  # listed beside the input, by extension
    parent: Run | None = None
    selection: Selection = field(default_factory=dict)
    whole: bool = False

    def files(self) -> dict[str, bytes]:
        """Path in the run folder -> bytes, of what is written before the manifest beside the groups of image files."""
        common = {
            layout.VOCABULARY: readable_json(self.vocabulary.to_json()),
            layout.PROMPTS: readable_json(self.prompts.to_json()),
        }
        if self.whole:
            return common
        if self.parent is not None:
            return {layout.SELECTION: selection_bytes(self.selection), **common}
        return {
            layout.plan_file(0): plan_bytes(self.plan, self.skipped_files),
            **common,
        }


def require_free_or_ours(uri: str) -> None:
    """Refused when a folder without a manifest holds anything that a half-created run does not.

    A manifest that turns up meanwhile is another job's, started at the same moment: `create_run` adopts its run.
    """
    for info in storage.list_objects(uri):
        relative = info.uri.removeprefix(uri).lstrip("/")
        if relative.split("/")[0] not in _OURS:
            if storage.head(storage.join(uri, layout.MANIFEST)) is not None:
                return
            raise Refused(
                f"output {storage.redact(uri)} is not empty and not a labeler run (found {relative}); "
                "choose a new or empty folder"
            )


def create_run(uri: str, new: NewRun, *, single_writer: bool = False) -> Run:
    """Write a new run, its manifest last and if-absent; the loser of a race adopts the winner's run.

    Raises:
        Refused: the folder holds a run with another fingerprint, a half-created other run, or something else.
    """
    require_free_or_ours(uri)
    files = new.files()
    if other := _write_groups(uri, new.plan, single_writer):
        return _adopt(uri, new, differing=other)
    for relative, data in files.items():
        target = storage.join(uri, relative)
        if not storage.put_if_absent(target, data, single_writer=single_writer) and storage.read_bytes(target) != data:
            return _adopt(uri, new, differing=relative)
    manifest = Manifest.new(
        new.fields,
        config=new.config,
        versions=new.versions,
        digests={name: digest_of(data) for name, data in files.items()},
        parent=new.parent,
        whole=new.whole,
    )
    if new.parent is not None:  # so that what must reach every copy of a row finds this one
        storage.put(new.parent.path(layout.derived_file(manifest.run_id)), storage.redact(uri).encode())
    if not storage.put_if_absent(storage.join(uri, layout.MANIFEST), manifest.to_json(), single_writer=single_writer):
        return _adopt(uri, new, differing=layout.MANIFEST)
    return Run(uri, manifest, new.parent)


def _write_groups(uri: str, plan: Iterable[PlannedShard], single_writer: bool) -> str | None:
    """Write the groups of image files, many at a time; return the path of one that is there with other bytes."""

    def write(relative: str, data: bytes) -> str | None:
        target = storage.join(uri, relative)
        written = storage.put_if_absent(target, data, single_writer=single_writer)
        return None if written or storage.read_bytes(target) == data else relative

    jobs: Iterator[Fetch[str | None] | str | None] = (
        Fetch(len(data), partial(write, relative, data)) for relative, data in group_files(plan)
    )
    return next(filter(None, in_order(jobs)), None)


def _adopt(uri: str, new: NewRun, *, differing: str) -> Run:
    """Another job was faster: take its run, if it is the same labeling."""
    run = open_run(uri)
    if run is None:
        raise Refused(
            f"output {storage.redact(uri)} holds a half-created run of something else (its {differing} differs, "
            "and it has no run.json, so nothing was labeled there); delete the folder or choose another output"
        )
    run.require_fingerprint(new.fields)
    if new.parent is None:
        require_same_input(run, new.config["input"])
    return run


def require_same_input(run: Run, public: Mapping[str, Any]) -> None:
    """A run never lists its input again, so another one would silently be ignored: refuse it instead.

    Args:
        public: the section of the config as runs record it.
    """
    recorded = run.manifest.config["input"]
    for name in ("uri", "format", "limit", "images_per_shard"):
        if public.get(name) != recorded.get(name):
            raise Refused(
                f"output {storage.redact(run.uri)} holds a run with a different input.{name} "
                f"(run: {recorded.get(name)!r}, config: {public.get(name)!r}); restore it, choose another output, "
                "or (input.uri only) add shards with --extend"
            )


def extend_plan(
    run: Run,
    fresh: Sequence[PlannedShard],
    *,
    skipped_files: Mapping[str, int] | None = None,
    generation: int | None = None,
    single_writer: bool = False,
) -> None:
    """Append shards to the plan as a new generation; what is in the plan stays as it was planned.

    Args:
        skipped_files: what the input holds beside its shards now, by extension.
        generation: the number of those that `fresh` was found with, and numbered after; None for those there are now.

    Raises:
        Refused: another job has extended the plan since, perhaps by some of the same.
    """
    if not fresh:
        return
    _write_groups(run.uri, fresh, single_writer)
    number = generations(run) if generation is None else generation
    previous = digest_of(storage.read_bytes(run.path(layout.plan_file(number - 1))))
    data = plan_bytes(fresh, skipped_files, previous=previous)
    if not storage.put_if_absent(run.path(layout.plan_file(number)), data, single_writer=single_writer):
        raise Refused(f"another job extended run {storage.redact(run.uri)} at the same moment; run the command again")
