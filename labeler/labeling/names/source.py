"""Which source of names per image a configuration names, found and checked."""

from __future__ import annotations

from labeler import storage
from labeler.config import Config
from labeler.errors import Refused
from labeler.labeling.names.of_field import NamesOfField
from labeler.labeling.names.of_run import NamesOfRun
from labeler.labeling.names.per_image import NamesSource
from labeler.prompts import Family, Narrower
from labeler.vocabulary import Vocabulary

_PACKING = ("protocol", "max_categories")


def columns_of(config: Config) -> tuple[str, ...]:
    """Return the optional columns that a job's rows have."""
    return ("asked",) if config.prompts.source else ()


def resolve_names_per_image(config: Config, family: Family, vocabulary: Vocabulary) -> NamesSource | None:
    """Return what says the names of each image; None where all are asked for all.

    Raises:
        Refused: the family takes all names together, options that contradict it are set, or the source is not usable.
    """
    source = config.prompts.source
    if source is None:
        return None
    _require_narrower(config, family)
    if source.run is None:
        assert source.field is not None
        return NamesOfField.of(source.field, vocabulary)
    if storage.absolute_uri(source.run) == storage.absolute_uri(config.output.uri):
        raise Refused(f"prompts.from: {storage.redact(source.run)} is the output itself; write into another folder")
    return NamesOfRun.find(source.run, config.prompts.from_score, vocabulary)


def _require_narrower(config: Config, family: Family) -> None:
    if config.model.family is not None or not isinstance(family, Narrower):
        raise Refused(
            f"prompts.from: the family {family.name} takes all names together, so that fewer save nothing; leave it "
            "out, or use Grounding DINO, OWL or SAM 3"
        )
    fields = type(config.prompts).model_fields
    given = [f"prompts.{name}" for name in _PACKING if getattr(config.prompts, name) != fields[name].default]
    if given:
        raise Refused(f"{', '.join(given)}: with prompts.from each image has prompts of its own; leave it out")
