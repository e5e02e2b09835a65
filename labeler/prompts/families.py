"""Which families of detectors there are, and which of them a checkpoint or a run belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labeler.errors import Refused
from labeler.prompts.closed_set.family import ClosedSetFamily
from labeler.prompts.family import Family, PromptPlan
from labeler.prompts.grounding_dino.family import GroundingDinoFamily
from labeler.prompts.owl.family import OWL_V2, OWL_VIT
from labeler.prompts.sam3.family import Sam3Family

DEFAULT = GroundingDinoFamily()  # of runs whose prompts.json names no family
_FAMILIES: dict[str, Family] = {}
_WHOLES = {"Sam3VideoModel": "Sam3Model"}  # class that a checkpoint is published as -> its part that detects


def register(family: Family) -> Family:
    """Make a family known to this process; a module that defines one calls this, so that importing it is enough.

    Raises:
        ValueError: another family has its name, or one of its model types.
    """
    for other in _FAMILIES.values():
        if other != family and (other.name == family.name or set(other.architectures) & set(family.architectures)):
            raise ValueError(f"family {family.name} has the name or a model type of family {other.name}")
    _FAMILIES[family.name] = family
    return family


def find_family(config: Mapping[str, Any], name: str, only: Family | None = None) -> tuple[Family, str]:
    """Return the family of a checkpoint, and the name of its class in transformers.

    Args:
        config: what its config.json says.
        name: of the checkpoint, for the refusal.
        only: a family that need not be known; None: any that is.

    Raises:
        Refused: it is of no known family.
    """
    families = _FAMILIES.values() if only is None else (only,)
    known = {(model_type, a): f for f in families for model_type, a in f.architectures.items()}
    named = (config.get("architectures") or [None])[0]
    named = _WHOLES.get(named, named)
    for (model_type, architecture), family in known.items():
        if named == architecture or (named is None and config.get("model_type") == model_type):
            return family, architecture
    what = named or config.get("model_type") or "unknown"
    listed = "; ".join(f"{f.name} ({', '.join(f.architectures)})" for f in _FAMILIES.values())
    raise Refused(f"checkpoint {name} is a {what}, of no known family of detectors; known are {listed}")


def family_of(model_type: str) -> Family | None:
    """Return the family that has config.json's `model_type`, if one is known."""
    return next((family for family in _FAMILIES.values() if model_type in family.architectures), None)


def architecture_of(model_type: str) -> str:
    """Return the name of the class in transformers for config.json's `model_type`; KeyError where no family has it."""
    return {t: a for family in _FAMILIES.values() for t, a in family.architectures.items()}[model_type]


def plan_from_json(data: Mapping[str, Any]) -> PromptPlan:
    """Return the plan in a run's prompts.json. Refused where it is damaged, or of a family that is not known here."""
    name = data.get("family", DEFAULT.name)
    if name not in _FAMILIES:
        raise Refused(f"prompts.json is of the detector family {name!r}; known here are {', '.join(_FAMILIES)}")
    return _FAMILIES[name].plan_from_json(data)


for _family in (DEFAULT, ClosedSetFamily(), OWL_V2, OWL_VIT, Sam3Family()):
    register(_family)
