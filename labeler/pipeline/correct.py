"""A corrected run: the rows of a run after people reviewed some of its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labeler import storage
from labeler.corrections.corrections import COLUMNS, Corrections
from labeler.digests import readable_json
from labeler.labeling.resolve import Job, s3_rules
from labeler.labels.extensions import in_order
from labeler.pipeline.derive import config_of
from labeler.pipeline.rewrite import rewrite
from labeler.pipeline.session import Outcome
from labeler.runs import Run, layout


def correct(parent: Run, corrections: Corrections, output: str, *, about: Mapping[str, Any]) -> Outcome:
    """Make the derived run, or continue where that stopped. Reads no image, and does not start Ray or a model.

    Args:
        about: what else goes into corrections.json: where the corrections came from.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
    """
    config = config_of(parent, output, ())
    s3_rules(config, parent.lineage).apply()
    fields = {
        **parent.manifest.fingerprint_fields,
        **corrections.fields,
        "columns": list(in_order({*parent.columns, *COLUMNS})),
    }
    job = Job(config, parent.vocabulary(), parent.prompts(), None, fields, own=parent.lineage)
    outcome = rewrite(parent, job, corrections.new_rows)
    counts = {**about, **corrections.tally.to_dict()}
    storage.put(outcome.run.path(layout.CORRECTIONS), readable_json(counts))
    return outcome
