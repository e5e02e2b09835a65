"""A job: a configuration with everything it names found and checked, before any GPU is taken."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.checkpoints import DetectorCheckpoint, model_uri, resolve
from labeler.checkpoints.library import check_transformers
from labeler.config import MOST_PAIRS, OF_LABELER, Config, changed, of_families
from labeler.errors import LabelerError, Refused
from labeler.labeling.fingerprint import fingerprint_fields, masks_fields, redacted, rule_of
from labeler.labeling.names.per_image import NamesSource, with_names
from labeler.labeling.names.source import columns_of, resolve_names_per_image
from labeler.labels.extensions import schema_fields
from labeler.labels.records import schema
from labeler.prompts import ImageRule, ModuleFamily, PromptPlan, Reviser, UserModule, refused_crops
from labeler.prompts.family import Planner
from labeler.prompts.sam3.family import Sam3Family
from labeler.prompts.sam3.plan import PhrasePasses
from labeler.prompts.vocabulary_for import load_vocabulary
from labeler.rescorers import resolve_rescorer as find_rescorer
from labeler.rescorers.checkpoint import RescorerCheckpoint
from labeler.rescorers.preprocess import CropRule
from labeler.rescorers.texts import BACKGROUND, TEMPLATES, Texts, make_texts
from labeler.runs.plan import PlannedShard
from labeler.segmenters.checkpoint import SegmenterCheckpoint, resolve_segmenter
from labeler.segmenters.preprocess import MaskPreprocessing
from labeler.shards import Item, Shard, count_images, find_shards
from labeler.vocabulary import Vocabulary, refuse

UNIT_S = 20.0  # a unit is to be done within the notice of a spot machine, 30 s
PASSES_PER_S = 40.0  # of Grounding DINO tiny at 800 x 1333 on an L4
MOST_UNIT_IMAGES = 256
PHOTOGRAPH = 3000, 4000  # height and width of an image, for the size of units of runs with tiles
_COUNTING_REQUESTS = 32
_SHOWN_DOUBTS = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """All parts of a run, resolved.

    Attributes:
        fields: the fingerprint's fields, one by one; runs with equal ones have equal rows.
        checkpoint: of the detector; None where nothing is detected.
        segmenter: the checkpoint that makes masks, None where none are made.
        mask_phrases: what it is asked for, where it looks for phrases (SAM 3).
        rescorer: the checkpoint that gives stored boxes a second score, None where none does.
        texts: what it compares them with.
        own: run folders that it derives from.
        only: the passes of the plan that are run; None for all.
        per_image: what says which names each image is asked for; None for all.
    """

    config: Config
    vocabulary: Vocabulary
    plan: PromptPlan
    checkpoint: DetectorCheckpoint | None
    fields: dict[str, Any]
    segmenter: SegmenterCheckpoint | None = None
    mask_phrases: PhrasePasses | None = None
    own: tuple[str, ...] = ()
    only: tuple[int, ...] | None = None
    rescorer: RescorerCheckpoint | None = None
    texts: Texts | None = None
    per_image: NamesSource | None = None

    @property
    def detector(self) -> DetectorCheckpoint:
        """The checkpoint of a job that detects."""
        assert self.checkpoint is not None, "only boxes of another run are worked on"
        return self.checkpoint

    @property
    def unit_seconds(self) -> float:
        """About how long one worker labels a whole unit, on a GPU that is not among the fast ones."""
        return self.config.unit.images * self.plan.passes * _views(self.config) / PASSES_PER_S

    def with_names(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """Return the images with what each is asked for; for a few, since what says the names is loaded for it."""
        return with_names(self.per_image.load() if self.per_image else None, items)

    def as_planned(self, recorded: Mapping[str, Any]) -> Job:
        """Return the same with the units of a run that is there already; for a config that leaves their size open.

        Args:
            recorded: the fields of the run's fingerprint.
        """
        images = recorded.get("unit.max_images", self.config.unit.max_images)
        unit = self.config.unit.model_copy(update={"max_images": images})
        config = self.config.model_copy(update={"unit": unit})
        return replace(self, config=config, fields={**self.fields, "unit.max_images": images})

    @property
    def rule(self) -> ImageRule:
        """Return how the detector's images are made ready."""
        return rule_of(self.config, self.detector)


@dataclass(frozen=True)
class Names:
    """A vocabulary and the plan of a detector for it; no weights were needed for that.

    Attributes:
        config: with what it leaves to the family said.
        module: the user's own detector, None where it is one of labeler's families.
        planner: of the checkpoint that the configuration names.
        phrases: as `Job.mask_phrases`.
        per_image: as of `Job`.
    """

    config: Config
    module: UserModule | None
    planner: Planner
    vocabulary: Vocabulary
    plan: PromptPlan
    phrases: PhrasePasses | None
    per_image: NamesSource | None = None


def resolve_job(
    config: Config, vocabulary: Vocabulary | None = None, own: Sequence[str] = (), plan: PromptPlan | None = None
) -> Job:
    """Find and check vocabulary, checkpoint and prompts of a configuration.

    Args:
        vocabulary: that of a run, in the place of what the configuration names.
        own: as of `Job`.
        plan: that of a run, in the place of one that is packed now; taken where plans can be revised.

    Raises:
        Refused: anything is missing, unreadable or contradictory; nothing has been written.
    """
    clash = sorted(set(config.input.keep).intersection(schema(columns=columns_of(config)).names))
    if clash:
        raise Refused(f"input.keep: {clash[0]!r} is the name of a labels column; rename it in the input")
    _check_drafts(config)
    if config.rescore is not None:
        raise Refused(
            "rescore: only the boxes of a complete run get second scores: leave the section out, then use "
            "`labeler rescore RUN rescore.model=...`"
        )
    names = resolve_names(config, vocabulary, own)  # so that they fail before a download
    if vocabulary is None:
        _warn_of(names.vocabulary.doubts)
    if (config.detect.pairs_per_batch or 0) > MOST_PAIRS:
        asked = config.detect.pairs_per_batch
        log.warning("detect.pairs_per_batch=%d is more than a forward pass takes: %d pairs are used", asked, MOST_PAIRS)
    if plan is not None and isinstance(names.planner, Reviser):
        names = replace(names, plan=plan)
    return job_of(names, own)


def job_of(names: Names, own: Sequence[str]) -> Job:
    """Find the weights for what a configuration looks for, and make a job of it. Args and Raises: of `resolve_job`."""
    config = _with_unit(names.config, names.plan)
    checkpoint = resolve(model_uri(config.model_name), revision=config.model.revision, module=names.module)
    segmenter = resolve_masks(config)
    fields = fingerprint_fields(config, names.vocabulary, names.plan, names.planner, checkpoint)
    fields |= masks_fields(config, segmenter, names.phrases) | schema_fields(columns_of(config))
    fields |= names.per_image.fields if names.per_image else {}
    job = Job(config, names.vocabulary, names.plan, checkpoint, fields, segmenter, names.phrases, tuple(own))
    return replace(job, per_image=names.per_image)


def resolve_names(config: Config, vocabulary: Vocabulary | None = None, own: Sequence[str] = ()) -> Names:
    """Find and check what a configuration looks for, with its checkpoint's tokenizer or labels; no weights are fetched.

    Args and Raises: as of `resolve_job`.
    """
    check_transformers()
    s3_rules(config, own).apply()
    module = UserModule.find(config.model.family) if config.model.family is not None else None
    light = resolve(model_uri(config.model_name), revision=config.model.revision, weights=False, module=module)
    _check_options(config, light)
    config = _with_family_defaults(config, light)
    light_masks = resolve_masks(config, weights=False)
    planner = light.family.planner(light.folder, config.model)
    if vocabulary is None:
        vocabulary = load_vocabulary(vocabulary_spec(config), planner, config.prompts, family=light.family)
    plan = planner.plan(vocabulary, config.prompts)
    phrases = mask_phrases(config, light_masks, vocabulary)
    per_image = resolve_names_per_image(config, light.family, vocabulary)
    return Names(config, module, planner, vocabulary, plan, phrases, per_image)


def _warn_of(doubts: Sequence[str]) -> None:
    for doubt in doubts[:_SHOWN_DOUBTS]:
        log.warning("vocabulary: %s", storage.printable(doubt))
    if len(doubts) > _SHOWN_DOUBTS:
        log.warning("and %d more; `labeler vocabulary check` shows all", len(doubts) - _SHOWN_DOUBTS)


def s3_rules(config: Config, own: Sequence[str] = ()) -> storage.S3Rules:
    """Return the rules by which each process reads the S3 buckets of the job.

    Args:
        own: runs that it derives from, which are not read as the input is.
    """
    spec = config.vocabulary.get("name") if isinstance(config.vocabulary, dict) else config.vocabulary
    named = spec if isinstance(spec, str) else ""
    names_run = (config.prompts.source and config.prompts.source.run) or ""
    checkpoints = {config.model.name: config.model.s3} if config.model.name else {}
    checkpoints |= {config.masks.model: config.masks.s3} if config.masks else {}
    checkpoints |= {config.rescore.model: config.rescore.s3} if config.rescore else {}
    return storage.input_rules(
        config.input_uris,
        config.input.s3.model_dump(),
        own=(config.output.uri, *own, *config.input.exclude, *_buckets_of_inventories(config), named, names_run),
        checkpoints={uri: storage.S3Access(**s3.model_dump()) for uri, s3 in checkpoints.items()},
    )


def _buckets_of_inventories(config: Config) -> Iterator[str]:
    """Inventories of public buckets are in buckets of one's own; those beside their objects are read as these are."""
    inputs = {_bucket_of(uri) for uri in config.input_uris}
    yield from {_bucket_of(uri) for uri in config.inventory_uris if storage.scheme(uri)} - inputs


def _bucket_of(uri: str) -> str:
    return "/".join(uri.split("/")[:3])


def resolve_masks(config: Config, *, weights: bool = True) -> SegmenterCheckpoint | None:
    """Return the checkpoint that makes masks, None where the config asks for none. Refused where it is unusable."""
    masks = config.masks
    if masks is None:
        return None
    checkpoint = resolve_segmenter(model_uri(masks.model), revision=masks.revision, weights=weights)
    MaskPreprocessing.of(checkpoint)  # settings that do not fit the model are refused here, too
    return checkpoint


def mask_phrases(config: Config, segmenter: SegmenterCheckpoint | None, vocabulary: Vocabulary) -> PhrasePasses | None:
    """Return what a segmenter that looks for phrases is asked for; None for those that a box is enough for.

    Raises:
        Refused: the vocabulary has phrases that it cannot look for.
    """
    if segmenter is None or not segmenter.looks_for_phrases:
        return None
    found = tuple(category for category in vocabulary.categories if not category.negative)  # the others have no boxes
    family = Sam3Family()
    if problems := refused_crops(family, vocabulary):
        raise refuse(vocabulary.name, problems)
    return family.planner(segmenter.folder, config.model).plan(replace(vocabulary, categories=found), config.prompts)


def resolve_rescorer(config: Config, vocabulary: Vocabulary) -> tuple[RescorerCheckpoint, Texts]:
    """Return the checkpoint that gives boxes a second score, and what it compares them with. Refused if it is unusable.

    The vocabulary is spelled before any weights are fetched.
    """
    rescore = config.rescore
    if rescore is None:
        raise Refused("no model gives second scores: name a CLIP or SigLIP, rescore.model=openai/clip-vit-base-patch16")
    name = model_uri(rescore.model)
    light = find_rescorer(name, revision=rescore.revision, weights=False)
    CropRule.of(light, rescore.margin)  # settings that do not fit the model are refused here, too
    if rescore.background is not None and not light.compares:
        raise Refused("rescore.background: SigLIP scores each category for itself; leave it out")
    texts = make_texts(
        light,
        vocabulary,
        templates=TEMPLATES if rescore.templates is None else rescore.templates,
        background=BACKGROUND if rescore.background is None else rescore.background,
    )
    return find_rescorer(name, revision=rescore.revision), texts


def vocabulary_spec(config: Config) -> Any:
    """Return the config's vocabulary as `Vocabulary.load` takes it."""
    spec = config.vocabulary
    return list(spec) if isinstance(spec, tuple) else spec


def _check_options(config: Config, checkpoint: DetectorCheckpoint) -> None:
    """Raise Refused for options that other families have, for what the model does not take, and for what cannot be
    stored.
    """
    rule_of(config, checkpoint).require_resize(config.detect.resize, checkpoint.name)
    if checkpoint.module is not None:
        _check_module_options(config, checkpoint)
    asked = of_families(config)
    if isinstance(checkpoint.family, ModuleFamily):
        asked |= changed(config, OF_LABELER)
    foreign = sorted(asked.keys() - checkpoint.family.options)
    if foreign:
        raise Refused(
            f"{', '.join(foreign)}: checkpoint {checkpoint.name} is of the family {checkpoint.family.name}, "
            f"which has no such option; leave {'it' if len(foreign) == 1 else 'them'} out"
        )


def _check_module_options(config: Config, checkpoint: DetectorCheckpoint) -> None:
    """Raise Refused for options that hold a secret, and for an output that would change the digest of the model's
    folder.
    """
    for name, value in config.model.options.items():
        if redacted(value) != value:
            raise Refused(
                f"model.options.{name} holds an address with a password or a query, and a run's options are stored as "
                "they are; let the module read it from the environment"
            )
    output = Path(storage.absolute_uri(config.output.uri))
    if checkpoint.folder.absolute() in (output, *output.parents):
        raise Refused(f"output {config.output.uri} is inside the model's folder {checkpoint.name}; write it elsewhere")


def _with_family_defaults(config: Config, checkpoint: DetectorCheckpoint) -> Config:
    """Return what the config leaves to the family, said: run.json and the fingerprint have the numbers."""
    floor = config.detect.floor(checkpoint.family.score_floor)
    detect = config.detect.model_copy(update={"score_floor": floor})
    return config.model_copy(update={"detect": detect})


def _with_unit(config: Config, plan: PromptPlan) -> Config:
    """Return how many images are a unit, said: few enough that one is done within the notice of a spot machine."""
    passes = plan.passes * _views(config)
    images = config.unit.max_images or max(1, min(MOST_UNIT_IMAGES, int(UNIT_S * PASSES_PER_S) // passes))
    return config.model_copy(update={"unit": config.unit.model_copy(update={"max_images": images})})


def _views(config: Config) -> int:
    """Return how often the detector looks at an image, were each a photograph of 12 megapixels where
    images are tiled.
    """
    tiling = config.detect.tiling
    return min(tiling.views_count(*PHOTOGRAPH), tiling.most) if tiling else 1


def _check_drafts(config: Config) -> None:
    """Raise Refused where pixels are excluded that masks need."""
    if config.masks is not None and config.detect.jpeg_draft:
        raise Refused("masks need every pixel of an image: leave detect.jpeg_draft out, or make them with labeler mask")


def plan_input(
    config: Config,
    *,
    known: Collection[str] = (),
    taken: Collection[str] = (),
    first_id: int = 0,
    counts: Counter[str] | None = None,
) -> list[PlannedShard]:
    """List the input and cut it into shards, excluding the `known` URIs of an earlier plan.

    Args:
        taken: names of that plan's shards.
        counts: gets, by extension, the number of files that are not part of the input.

    Raises:
        Refused: there is no image in it, or it cannot be read.
    """
    source = config.input
    found = find_shards(
        [storage.absolute_uri(uri) for uri in config.input_uris],
        format=source.format,
        limit=source.limit,
        images_per_group=source.images_per_shard,
        image_column=source.image_column,
        skip_without_images=source.skip_without_images,
        known=known,
        taken=taken,
        first_id=first_id,
        counts=counts,
        inventory=[storage.absolute_uri(uri) for uri in config.inventory_uris],
    )
    with ThreadPoolExecutor(_COUNTING_REQUESTS) as pool:  # one request per Parquet footer
        return [PlannedShard(*pair) for pair in zip(found, pool.map(_count, found), strict=True)]


def _count(shard: Shard) -> int | None:
    """Return images of a shard where that is cheap; a shard that cannot be read is named later, when its turn comes."""
    try:
        return count_images(shard)
    except LabelerError:
        return None
