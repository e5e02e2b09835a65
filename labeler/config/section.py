"""What all sections of a config share: their base, the marks on options, and types of values."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# Marks on options, for `marked`: where else an option is read is written once, beside it.
ROWS = "decides rows: a field of a run's fingerprint"
OF_TILES = "decides rows of runs with tiles: a field of the fingerprint where detect.tile is set"
OF_FAMILY = "only some families of detectors have it; refused for others, but at its default"
OF_LABELER = (
    "labeler's own families all have it; refused, but at its default, for a user's module that does not name it"
)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def marked(section: BaseModel, mark: str) -> dict[str, Any]:
    """The options of a section that have a mark, by name, in the order of their declaration."""
    fields = type(section).model_fields
    return {name: getattr(section, name) for name, field in fields.items() if mark in field.metadata}


def _byte_count(value: object) -> object:
    """`64MiB`, `1GiB`, `500KB` -> bytes; numbers pass through."""
    units = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1}
    if isinstance(value, str):
        text = value.strip().lower().replace("_", "")
        for suffix, factor in units.items():
            if text.endswith(suffix):
                try:
                    return int(float(text.removesuffix(suffix)) * factor)
                except ValueError:
                    raise ValueError(f"{value!r} is not a valid size; use e.g. 64MiB") from None
    return value


def _finite(value: object) -> object:
    """Return what JSON can hold: a run stores it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} cannot be stored as JSON: {error}") from None
    return value


FiniteJson = Annotated[Any, BeforeValidator(_finite)]
Bytes = Annotated[int, BeforeValidator(_byte_count, json_schema_input_type=int | str), Field(gt=0)]


class S3Config(Section):
    """Access to a bucket of another owner."""

    requester_pays: bool = False
    """Pay for requests and traffic, as buckets with requester-pays demand."""
    unsigned: bool = False
    """Send no credentials. Public buckets need this if you have none, or if yours are denied."""

    @model_validator(mode="after")
    def _pays_by_name(self) -> Self:
        if self.requester_pays and self.unsigned:
            raise ValueError("an unsigned request names nobody who pays; set requester_pays or unsigned, not both")
        return self
