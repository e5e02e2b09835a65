"""A vocabulary as what a detector reads: families of detectors, how they take images, and their prompt plans."""

from labeler.prompts.families import architecture_of, find_family, plan_from_json, register
from labeler.prompts.family import Cost, Family, Planner, PromptPlan, Report
from labeler.prompts.image_rule import ImageRule

__all__ = [
    "Cost",
    "Family",
    "ImageRule",
    "Planner",
    "PromptPlan",
    "Report",
    "architecture_of",
    "find_family",
    "plan_from_json",
    "register",
]
