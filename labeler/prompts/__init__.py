"""A vocabulary as what a detector reads: families of detectors, how they take images, and their prompt plans."""

from labeler.prompts.families import architecture_of, find_family, plan_from_json, register
from labeler.prompts.family import Cost, Family, Planner, PlanReport, PromptPlan
from labeler.prompts.image_rule import ImageRule

__all__ = [
    "Cost",
    "Family",
    "ImageRule",
    "PlanReport",
    "Planner",
    "PromptPlan",
    "architecture_of",
    "find_family",
    "plan_from_json",
    "register",
]
