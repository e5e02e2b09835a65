"""Synthetic scenes of colored shapes with exact boxes and masks: a data set that anyone can make in seconds.

Some combinations of color and shape are kept out of training (`HELD_OUT`): how well they are found measures transfer
to categories that a detector has never seen.
"""

from labeler.training.shapes.combinations import ALL, HELD_OUT, SEEN, Combination, categories, select
from labeler.training.shapes.data_set import DataSet, write_data_set
from labeler.training.shapes.natural import Natural, natural_background
from labeler.training.shapes.scenes import RADII, SIZES, Background, Scene, draw_scene, require_radii

__all__ = [
    "ALL",
    "HELD_OUT",
    "RADII",
    "SEEN",
    "SIZES",
    "Background",
    "Combination",
    "DataSet",
    "Natural",
    "Scene",
    "categories",
    "draw_scene",
    "natural_background",
    "require_radii",
    "select",
    "write_data_set",
]
