"""Thresholds fitted to ground truth or to marked boxes, so that what is exported has the precision asked for."""

from labeler.calibration.calibrate import calibrate_by_annotations, calibrate_by_marks
from labeler.calibration.fit import Calibration, FittedThreshold
from labeler.calibration.target import Target, parse_target

__all__ = [
    "Calibration",
    "FittedThreshold",
    "Target",
    "calibrate_by_annotations",
    "calibrate_by_marks",
    "parse_target",
]
