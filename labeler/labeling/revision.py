"""Change a run's vocabulary: plan which detections stay, and the job that labels the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labeler import storage
from labeler.checkpoints import model_uri, resolve
from labeler.config import Config, config_of_run
from labeler.errors import Refused
from labeler.labeling.fingerprint import family_fields
from labeler.labeling.resolve import Job, job_of, resolve_names, s3_rules
from labeler.labels.extensions import schema_fields
from labeler.labels.revised import Change
from labeler.prompts import PromptPlan, Reviser, Revision
from labeler.runs import Run
from labeler.vocabulary import Vocabulary

_MAY_DIFFER = ("ray.", "model.name=", "model.device=", "model.dtype=", "detect.stall_timeout_s=", "output.")
_DIFFERS = ("vocabulary", "prompts")  # fields of the fingerprint that a revision is about


@dataclass(frozen=True)
class RevisionJob:
    """A revision with all that it needs found and checked.

    Attributes:
        job: labels the new passes alone.
        before: the vocabulary of the run.
        again: the plan that the new vocabulary has without the run.
    """

    job: Job
    revision: Revision
    change: Change
    before: Vocabulary
    anew: PromptPlan

    @property
    def looked_at(self) -> str:
        """Return what each pass is of, in words."""
        return "view of an image" if self.job.config.detect.tiling else "image"

    def lines(self) -> list[str]:
        """Return what changes, and the passes of both ways, for people."""
        before = {category.name for category in self.before.categories if not category.negative}
        after = {category.id: category.name for category in self.job.vocabulary.categories if not category.negative}
        stays = {after[id_] for id_ in self.revision.category_ids.values()}
        other = set(after.values()) - stays
        kept, new = len(self.revision.passes), len(self.revision.new_passes)
        gone = len(before) - len(stays) - len(other & before)
        lines = [
            f"vocabulary  {len(before):,} categories before, {len(after):,} now: {len(stays):,} stay, "
            f"{len(other & before):,} with other phrases, {len(other - before):,} new, {max(0, gone):,} gone",
            f"passes      {new:,} per {self.looked_at} with revise ({kept:,} prompt chunks stay), "
            f"{self.anew.passes:,} per {self.looked_at} with a run of its own",
        ]
        if not self.revision.exact:
            lines.append(
                "rounding    a new prompt chunk is larger than any of the run, so scores of the chunks that stay may "
                "differ in the last bits from those of a run that makes all passes"
            )
        return lines


def revised_config(run: Run, vocabulary: str, output: str, overrides: Sequence[str]) -> Config:
    """Return the configuration of a run with another vocabulary and output.

    Args:
        vocabulary: the run's `synonyms` and `negative` go with it, but for negative phrases where it has its own.

    Raises:
        Refused: an override decides rows, or the vocabulary cannot be read.
    """
    for override in overrides:
        if not override.strip().startswith(_MAY_DIFFER):
            raise Refused(
                f"{override!r} would change more than the vocabulary; what can be set here: {', '.join(_MAY_DIFFER)}"
            )
    recorded = run.manifest.config
    spec = _with_options(vocabulary, recorded["vocabulary"])
    values = {**recorded, "output": {**recorded["output"], "uri": output}, "vocabulary": spec}
    config = config_of_run(values, overrides, where=f"the config of run {storage.redact(run.uri)}")
    if not isinstance(spec, dict) or "negative" not in spec:
        return config
    s3_rules(config, run.lineage).apply()
    if Vocabulary.load(vocabulary).negative_ids:  # it says its own
        del spec["negative"]
    return config.model_copy(update={"vocabulary": spec})


def _with_options(vocabulary: str, recorded: Any) -> str | dict[str, Any]:
    """Return a vocabulary with the options of the run's, which are not about its names."""
    if not isinstance(recorded, Mapping):
        return vocabulary
    return {"name": vocabulary, **{name: recorded[name] for name in ("synonyms", "negative") if name in recorded}}


def resolve_revision(run: Run, config: Config) -> RevisionJob:
    """Find what a changed vocabulary needs, and what of the run it leaves.

    Args:
        config: `revised_config`.

    Raises:
        Refused: the vocabulary is the run's, the run is of a kind that cannot be revised, or its model or anything else
            that decides rows is not as it was.
    """
    recorded = run.manifest.fingerprint_fields
    _require_revisable(run, recorded)
    _require_words(run, config)
    names, before = resolve_names(config, None, run.lineage), run.vocabulary()
    if names.vocabulary.fingerprint == before.fingerprint:
        raise Refused(f"the vocabulary is that of run {storage.redact(run.uri)}: there is nothing to revise")
    job = job_of(names, run.lineage)
    _require_model(run, config, {"model": job.fields["model"]})
    inherited = {name: value for name, value in recorded.items() if name not in job.fields}
    same = {**inherited, **schema_fields(run.columns), **{name: recorded[name] for name in _DIFFERS}}
    run.require_fingerprint({**job.fields, **same})
    assert isinstance(names.planner, Reviser)  # `_require_words` has refused other families
    revision = names.planner.revise(run.prompts(), names.vocabulary, config.prompts)
    job = replace(job, plan=revision.plan, fields={**job.fields, "prompts": revision.plan.fingerprint})
    detect = config.detect
    change = Change(revision.category_ids, revision.passes, detect.nms_iou, detect.max_detections)
    return RevisionJob(replace(job, only=revision.new_passes), revision, change, before, names.plan)


def _require_words(run: Run, config: Config) -> None:
    """Raise Refused where the model reads words otherwise by now; before any are read, which would be
    refused for less.
    """
    s3_rules(config, run.lineage).apply()
    light = resolve(model_uri(config.model_name), revision=config.model.revision, weights=False)
    family = family_fields(light.family)
    digests = {} if family else light.family.planner(light.folder, config.model).digests
    _require_model(run, config, {**family, **digests})


def _require_model(run: Run, config: Config, now: Mapping[str, Any]) -> None:
    """Raise Refused where fields of the fingerprint that are about the model are not `now` as recorded."""
    recorded = run.manifest.fingerprint_fields
    if differing := [name for name, value in now.items() if recorded.get(name) != value]:
        raise Refused(
            f"run {storage.redact(run.uri)} was labeled with another model than {storage.redact(config.model_name)} "
            f"holds now ({', '.join(differing)}): put that model back there, or label with the new vocabulary"
        )


def _require_revisable(run: Run, recorded: Mapping[str, Any]) -> None:
    run.require_detector("revise")
    run.require_reader()
    shown = storage.redact(run.uri)
    if "family" in recorded:
        raise Refused(
            f"run {shown} was labeled by the family {recorded['family']}; only runs of Grounding DINO can be "
            "revised; label again with the new vocabulary"
        )
    if recorded.get("masks") is not None:
        raise Refused(
            f"run {shown} has masks, which new boxes would lack: revise the run that they were made for, then "
            "`labeler mask` the result"
        )
    if "review" in run.columns:
        raise Refused(
            f"run {shown} is corrected, and a revision would lose its reviews: give `labeler revise` the run before "
            f"the corrections, and carry them over with labeler correct NEW_RUN --from-run {shown}"
        )
    if run.columns:
        raise Refused(f"run {shown} has the columns {', '.join(run.columns)}, which a revision cannot carry over")
