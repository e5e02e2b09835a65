"""Names per image by what another run has found: which run that may be, and which of its categories are whose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from labeler import storage
from labeler.errors import Refused, did_you_mean
from labeler.labeling.names.found import COLUMNS, FoundNames
from labeler.runs import Snapshot, read_snapshot, require_run
from labeler.vocabulary import Vocabulary

_NAMED = 20  # of names that do not match


@dataclass(frozen=True)
class NamesOfRun:
    """The categories that a complete run has found in each image; a `NamesSource`.

    Attributes:
        uri, run_id: of the run.
        score: from which on a category counts as found.
        category_ids: of that run -> of the job.
    """

    uri: str
    run_id: str
    score: float
    category_ids: Mapping[int, int]
    is_large: ClassVar = True

    @staticmethod
    def find(uri: str, score: float | None, vocabulary: Vocabulary) -> NamesOfRun:
        """Check a run for a vocabulary.

        Args:
            score: None for every box that it stored.

        Raises:
            Refused: it is not a run, it is incomplete, or it did not look for all names of the vocabulary.
        """
        from labeler.truth.category_names import one_name, same_name  # workers do without

        run = require_run(uri)
        snapshot, shown = read_snapshot(run), f"prompts.from: run {storage.redact(run.uri)}"
        if snapshot.left:
            raise Refused(
                f"{shown} is incomplete ({len(snapshot.left):,} of {len(snapshot.plan):,} shards unfinished); finish "
                "it with the label command"
            )
        theirs = [category for category in run.vocabulary().categories if not category.negative]
        ours = [category for category in vocabulary.categories if not category.negative]
        found = same_name(ours, theirs)
        names = [category.name for category in theirs]
        problems = one_name(ours, found)
        problems += [
            f'"{category.name}" is not in that run{did_you_mean(category.name, names)}'
            for category, same in zip(ours, found, strict=True)
            if same is None
        ]
        if problems:
            more = f" and {len(problems) - _NAMED:,} more" if len(problems) > _NAMED else ""
            raise Refused(
                f"{shown} did not look for all {len(ours):,} names of the vocabulary {vocabulary.name} (names are "
                f"compared, whatever their ids): {'; '.join(problems[:_NAMED])}{more}"
            )
        ids = {same.id: category.id for category, same in zip(ours, found, strict=True) if same is not None}
        return NamesOfRun(run.uri, run.manifest.run_id, score or 0.0, ids)

    @property
    def fields(self) -> dict[str, Any]:
        return {"prompts.from": self.run_id, "prompts.from_score": self.score}

    def snapshot(self) -> Snapshot:
        """Return the run as it is now. Refused where another was put in its place."""
        run = require_run(self.uri)
        if run.manifest.run_id != self.run_id:
            raise Refused(f"prompts.from: {storage.redact(self.uri)} holds another run by now")
        return read_snapshot(run)

    def load(self) -> FoundNames:
        """As of `NamesSource`: all of its rows are read."""
        return FoundNames.of(self.snapshot().tables(COLUMNS), self.category_ids, self.score)
