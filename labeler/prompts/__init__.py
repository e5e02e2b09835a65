"""A vocabulary as what a detector reads: families of detectors, how they take images, and their prompt plans."""

from labeler.prompts.families import architecture_of, find_family, plan_from_json, register
from labeler.prompts.family import (
    Cost,
    Family,
    Narrower,
    Planner,
    PlanReport,
    PromptPlan,
    Reviser,
    Revision,
    check_names,
    refused_crops,
)
from labeler.prompts.image_rule import ImageRule
from labeler.prompts.module_family import ModuleFamily, StoredPlan
from labeler.prompts.user_module import UserModule

__all__ = [
    "Cost",
    "Family",
    "ImageRule",
    "ModuleFamily",
    "Narrower",
    "PlanReport",
    "Planner",
    "PromptPlan",
    "Reviser",
    "Revision",
    "StoredPlan",
    "UserModule",
    "architecture_of",
    "check_names",
    "find_family",
    "plan_from_json",
    "refused_crops",
    "register",
]
